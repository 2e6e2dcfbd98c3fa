"""Convert an ONNX model to a trainable torch module: load, canonicalise, infer shapes, fuse patterns, lower.

The result is an `fx.GraphModule` over native modules in eval mode. Its `ConversionRecord` (see `record_of`) ties
every parameter to the source value it was made from. A model is converted exactly or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import onnx
import onnx_ir as ir
from torch import fx

from ...errors import InputError, RtoolError
from ..files.loading import load_onnx
from ..files.model_file import ModelFile, source_of
from ..passes.input_normalisation import keep_normalisation_fixed
from ..passes.shape_inference import infer_shapes, model_problem
from ..records.graph_steps import graph_steps
from ..records.metadata import stated_folds
from ..records.provenance import chain_of_metadata
from ..records.record import ConversionRecord, ParameterSource, TensorSpec, attach_record, require_record
from .canonical_form import canonicalise, fold_typed_constants
from .graph_builder import GraphBuilder
from .lower import lower
from .pattern_fusion import fuse_patterns

__all__ = ["onnx_to_torch", "tensor_specs"]


def onnx_to_torch(
    model: str | Path | onnx.ModelProto | ir.Model | ModelFile,
    *,
    freeze: Sequence[str] = (),
    learned: Sequence[str] = (),
) -> fx.GraphModule:
    """Convert a model to a module in eval mode; every float weight that was learned becomes an `nn.Parameter`.

    Exponents, bounds, thresholds, epsilons and single numbers that the file does not show to be parameters stay what
    they are, see `passes.constants.fixed_constants`.

    The module takes its inputs in graph order. A single output is returned as a tensor, several as a tuple.

    Args:
        model: a path, a model read by `ModelFile`, or one in memory; not changed.
        freeze: patterns of parameter paths, such as `"conv1.*"`; matching parameters do not require gradients.
        learned: names or patterns of single numbers of the file that are learned, though it does not show it.

    Raises:
        InputError: `model` is not a usable ONNX model, its file changed while it was read, or a pattern matches
            nothing.
        UnsupportedOperatorsError: some nodes cannot be converted exactly; lists all of them.

    Examples:
        >>> module = rtool.converters.onnx_to_torch("model.onnx")
        >>> [name for name, _ in module.named_parameters()]
        ['conv.weight', 'conv.bias']
        >>> module(torch.zeros(5, 3, 16, 8)).shape
        torch.Size([5, 4])
    """
    file = ModelFile.mapped(model) if isinstance(model, str | Path) else model
    loaded = load_onnx(file)
    try:
        module = _convert(loaded, freeze, tuple(learned))
    except RtoolError:
        raise
    except Exception as error:
        # Damaged files can fail anywhere. If the file is valid, the failure is our bug, so the traceback is shown.
        problem = model_problem(load_onnx(file))
        if problem is None:
            raise
        raise InputError(f"{source_of(loaded).name}: not valid ONNX ({problem}); re-export the model") from error
    if isinstance(file, ModelFile):
        file.check_unchanged()
    return module


def _convert(loaded: ir.Model, freeze: Sequence[str], learned: tuple[str, ...]) -> fx.GraphModule:
    source = source_of(loaded)
    outputs = tensor_specs(loaded.graph.outputs)
    canonicalise(loaded, learned)
    infer_shapes(loaded, source.name)
    fold_typed_constants(loaded, source.name)
    fuse_patterns(loaded.graph)
    keep_normalisation_fixed(loaded.graph)
    builder = lower(loaded, source.name)
    _release_weights(loaded.graph)
    module = fx.GraphModule(builder.root, builder.graph, class_name=_class_name(source.name))
    record = ConversionRecord(
        source=source.name,
        digest=source.digest,
        opset=loaded.graph.opset_imports.get("", 0),
        producer=" ".join(filter(None, (loaded.producer_name, loaded.producer_version))),
        inputs=tensor_specs(loaded.graph.inputs),
        outputs=outputs,
        parameters=_sources_in_order(module, builder),
        nodes={path: tuple(names) for path, names in builder.node_names.items()},
        steps=graph_steps(module),
        folded=stated_folds(loaded.metadata_props),
        earlier=chain_of_metadata(loaded.metadata_props),
        learned=learned,
    )
    attach_record(module, record)
    _freeze(module, freeze, source.name)
    return module.eval()


def _release_weights(graph: ir.Graph) -> None:
    """Release the file's bytes now; the IR has reference cycles and would hold them until the next collection."""
    for value in graph.initializers.values():
        value.const_value = None


def _sources_in_order(module: fx.GraphModule, builder: GraphBuilder) -> dict[str, ParameterSource]:
    return {name: builder.parameter_sources[name] for name in module.state_dict() if name in builder.parameter_sources}


def tensor_specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Names, NumPy dtypes and shapes of graph inputs or outputs; an unknown dtype counts as float32."""
    return tuple(
        TensorSpec(
            value.name or "",
            value.dtype.numpy().name if value.dtype is not None else "float32",
            () if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape),
        )
        for value in values
    )


def _freeze(module: fx.GraphModule, patterns: Sequence[str], label: str) -> None:
    record = require_record(module)
    for pattern in patterns:
        matched = [name for name, _ in module.named_parameters() if fnmatchcase(name, pattern)]
        if not matched:
            raise InputError(
                f"{label}: freeze pattern {pattern!r} matches no parameter; names look like "
                f"{', '.join(name for name, _ in list(module.named_parameters())[:3])}"
            )
        record.frozen = (*record.frozen, *(name for name in matched if name not in record.frozen))
    for name in record.frozen:
        module.get_parameter(name).requires_grad_(False)


def _class_name(source: str) -> str:
    """A class name for the module: `osnet_x0_25.onnx` -> `OsnetX025`."""
    stem = Path(source).stem if source != "<memory>" else "Model"
    words = "".join(word[:1].upper() + word[1:] for word in "".join(c if c.isalnum() else " " for c in stem).split())
    return words if words[:1].isalpha() and words.isascii() else f"Model{words}" if words.isascii() else "Model"
