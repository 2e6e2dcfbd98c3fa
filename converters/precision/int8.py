"""Quantise a float32 model to int8 in QDQ form: static, weights per channel, activations calibrated on real images.

Done by onnxruntime.quantization, whose reader wants files and an opset of 13; both are arranged here. Static scales are
constants, so an image's embedding cannot depend on its neighbours in the batch, as it would with dynamic ones;
`check_slots` proves it for the result. Biases stay in float32, as TensorRT wants them; ONNX Runtime quantises them as
it loads the file from 1.21 on, and before that computes layers that have one in float32: right, but no faster.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import version_converter
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ...errors import GateError, InputError, nearest
from ..passes.identities import drop_identities
from ..runtime.runners import OnnxRunner
from .block_search import named_nodes
from .channel_equalisation import equalise_channels
from .int8_compaction import compact_quantised
from .int8_ranges import CalibrationMethod, measure_ranges

__all__ = ["Quantiser", "calibrated", "check_slots", "to_int8", "unprofitable_nodes"]

FEWEST_IMAGES = 16
"""Fewer images give ranges that the next image leaves."""
_OPSET = 13
"""The first opset whose QuantizeLinear has an axis, which weights per channel need."""
_LAYERS = ("Conv", "Gemm", "MatMul")
_OPERATORS = (*_LAYERS, "Relu", "Clip")
"""What gets quantisers: layers, and what is fused into them. With Add, Mul and pooling in 8 bits too, files grow and
embeddings suffer (iresnet50: cosine .988, was .991), and nothing gets faster (.531 of float32's time, was .534)."""
_FLOAT32, _RANGES = "float32.onnx", "ranges.json"
_WORTHWHILE = 100
"""Weights from which a layer gains: int8 saves 3 bytes each, its quantisers, names and scales cost about 250."""


def to_int8(
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    method: CalibrationMethod = "minmax",
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of `model` with int8 weights and uint8 activations around Conv, Gemm and MatMul.

    Args:
        model: a float32 model with one input.
        images: preprocessed calibration images [N, ...], at least 16.
        method: how activation ranges come from what was seen.
        keep: names of nodes that stay in float32.

    Raises:
        InputError: too few images, an unknown method, no node of a name in `keep`, nothing worth quantising, or a model
            that cannot be quantised.
    """
    with calibrated(model, images, method=method) as quantiser:
        quantiser.check_float32_nodes(keep)
        return quantiser.quantise(keep)


@contextmanager
def calibrated(
    model: onnx.ModelProto, images: NDArray[np.float32], *, method: CalibrationMethod = "minmax"
) -> Iterator[Quantiser]:
    """What quantises `model`, any number of times, with ranges that are measured once.

    Raises:
        InputError: as in `to_int8`.
    """
    if method not in get_args(CalibrationMethod):
        raise InputError(f"int8: unknown calibration method {method!r}; {nearest(method, get_args(CalibrationMethod))}")
    if len(images) < FEWEST_IMAGES:
        raise InputError(f"int8: calibration needs at least {FEWEST_IMAGES} images, got {len(images)}; give more")
    named = named_nodes(model)
    prepared = equalise_channels(_prepared(named), images)
    with tempfile.TemporaryDirectory(prefix="rtool-int8-") as name:
        folder = Path(name)
        onnx.save(prepared, folder / _FLOAT32)
        with _quietly():
            try:
                _save_ranges(measure_ranges(prepared, images, method, _activations(prepared)), folder / _RANGES)
            except Exception as error:  # the calibrators raise whatever their passes stumble over
                raise InputError(f"int8: the model cannot be calibrated ({error}); export with --fp16") from error
        operators = {node.name: node.op_type for node in prepared.graph.node}
        removed = frozenset(node.name for node in named.graph.node) - operators.keys()
        yield Quantiser(method, folder, operators, removed, frozenset(unprofitable_nodes(prepared)))


@dataclass(frozen=True)
class Quantiser:
    """A model in a folder beside the ranges of its activations; made by `calibrated`."""

    method: CalibrationMethod
    folder: Path
    operators: Mapping[str, str]
    """Operator of each node."""
    removed: frozenset[str]
    """Nodes of the source that are none any more: constants and aliases."""
    unprofitable: frozenset[str]
    """Nodes that always stay in float32, see `unprofitable_nodes`."""

    def check_float32_nodes(self, keep: Collection[str]) -> None:
        """Refuse a list that names no nodes of this model, or leaves nothing to quantise.

        Raises:
            InputError: it does.
        """
        unknown = sorted(set(keep) - set(self.operators) - self.removed)
        if unknown:
            raise InputError(
                f"int8: no node named {unknown[0]!r} to keep in float32; {nearest(unknown[0], self.operators)}"
            )
        if not any(
            kind in _LAYERS and name not in {*keep, *self.unprofitable} for name, kind in self.operators.items()
        ):
            raise InputError(
                f"int8: no {' or '.join(_LAYERS)} of {_WORTHWHILE} weights or more is left to quantise; use --fp16"
            )

    def quantise(self, keep: Collection[str] = ()) -> onnx.ModelProto:
        """The int8 model, the nodes named in `keep` in float32.

        Raises:
            InputError: the model cannot be quantised.
        """
        from onnxruntime import quantization as ort_quantization

        target = self.folder / "int8.onnx"
        with _quietly():
            try:
                ort_quantization.quantize_static(
                    str(self.folder / _FLOAT32),
                    str(target),
                    calibration_data_reader=None,  # the ranges are in the cache
                    quant_format=ort_quantization.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=ort_quantization.QuantType.QUInt8,
                    weight_type=ort_quantization.QuantType.QInt8,
                    nodes_to_exclude=sorted({*keep, *self.unprofitable}),
                    op_types_to_quantize=list(_OPERATORS),
                    calibration_cache_path=str(self.folder / _RANGES),
                    # A bias in float32 is exact, smaller than its int32 with a scale a channel, and all TensorRT reads.
                    extra_options={"QuantizeBias": False},
                )
            except Exception as error:  # the quantiser raises whatever its passes stumble over
                raise InputError(f"int8: the model cannot be quantised ({error}); export with --fp16") from error
        return compact_quantised(onnx.load(target))


def unprofitable_nodes(model: onnx.ModelProto) -> list[str]:
    """Layers so small that their scales and quantisers outweigh what int8 saves, with what only serves them.

    In a small OSNet these are the 1x1 layers of its channel gates, with the pooling, Relu and Sigmoid between them.
    """
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    small = {
        node.name
        for node in model.graph.node
        if node.op_type in _LAYERS and len(node.input) > 1 and sizes.get(node.input[1], _WORTHWHILE) < _WORTHWHILE
    }
    if not small:
        return []
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:  # forwards: what reads a small layer alone
        sources = [makers[name] for name in node.input if name in makers]
        if node.op_type not in _LAYERS and len(sources) == 1 and sources[0].name in small:
            small.add(node.name)
    for node in reversed(model.graph.node):  # backwards: what only small layers read
        users = [user for name in node.output for user in readers.get(name, [])]
        if node.op_type not in _LAYERS and users and all(user.name in small for user in users):
            small.add(node.name)
    return [node.name for node in model.graph.node if node.name in small]


def check_slots(model: onnx.ModelProto, images: NDArray[Any], *, tolerance: float = 1e-5) -> None:
    """Prove that the embedding of an image does not depend on its place or its neighbours in the batch.

    Raises:
        GateError: it does.
    """
    runner = OnnxRunner(model)
    size = runner.batch or 4
    batch = np.resize(images, (size, *images.shape[1:]))
    first = runner.run(batch)[0][0]
    for slot in range(size):
        louder = batch * images.dtype.type(-4)  # neighbours that stretch every range
        louder[slot] = images[0]
        error = float(np.abs(runner.run(louder)[0][slot] - first).max() / max(np.abs(first).max(), 1e-30))
        if not error <= tolerance:
            raise GateError(
                f"int8: an image's embedding changes by {error:.3g} in slot {slot} among other images; "
                "its scales depend on its neighbours"
            )


def _activations(model: onnx.ModelProto) -> list[str]:
    """Values that quantisers may be put on: what the quantised operators read and write, initializers aside."""
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in _OPERATORS]
    names = dict.fromkeys(
        name for node in nodes for name in (*node.input[: 2 if node.op_type in _LAYERS else 1], *node.output[:1])
    )
    return [name for name in names if name and name not in weights]


def _save_ranges(ranges: Mapping[str, tuple[float, float]], path: Path) -> None:
    """As `quantize_static` reads them."""
    from onnxruntime.quantization import calibrate

    found = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, found), path)


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """At least opset 13, weights as initializers, every Gemm with beta 1, every type and shape known."""
    if len(_real_inputs(model)) != 1:
        raise InputError(f"int8: expected a model with one input, got {len(_real_inputs(model))}")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except RuntimeError as error:
            raise InputError(f"int8: opset {opset} cannot be raised to {_OPSET} ({error}); export it anew") from error
    graph = ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(graph)
    drop_identities(graph)
    _fold_beta(graph.graph)
    return onnx.shape_inference.infer_shapes(ir.to_proto(graph))


def _fold_beta(graph: ir.Graph) -> None:
    """Gemm is A B + beta C; the quantiser sets beta to 1 and leaves C as it was."""
    for node in list(graph):
        beta = node.attributes.get("beta")
        if node.op_type != "Gemm" or beta is None or beta.as_float() == 1.0:
            continue
        addend = node.inputs[2] if len(node.inputs) > 2 else None
        node.attributes.pop("beta")
        if addend is None:
            continue
        factor = ir.tensor(np.array(beta.as_float(), np.float32), name=f"{node.name}_beta")
        if addend.is_initializer() and addend.const_value is not None:
            scaled = ir.tensor(addend.const_value.numpy() * factor.numpy(), name=f"{node.name}_beta_C")
            value = ir.Value(name=scaled.name, type=addend.type, shape=addend.shape, const_value=scaled)
            graph.register_initializer(value)
        else:
            constant = ir.Value(name=factor.name, type=addend.type, shape=ir.Shape([]), const_value=factor)
            graph.register_initializer(constant)
            product = ir.node("Mul", [addend, constant], name=f"{node.name}_beta_C")
            graph.insert_before(node, product)
            value = product.outputs[0]
        node.replace_input_with(2, value)


def _real_inputs(model: onnx.ModelProto) -> Sequence[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the quantiser's log and advice, some of which it prints."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
