"""Quantise a float32 model to int8 in QDQ form: static, per-channel weights, activations calibrated on real images.

onnxruntime.quantization does the work (Krishnamoorthi: "Quantizing deep convolutional networks for efficient
inference", arXiv:1806.08342); it needs files and at least opset 13, which this module provides. Static scales are
constants, so the embedding of an image cannot depend on its neighbours in the batch, as it would with dynamic scales;
`check_slots` verifies that. Biases stay in float32, as TensorRT requires. ONNX Runtime quantises them on loading from
version 1.21; earlier versions compute layers with a bias in float32, which is correct but no faster.
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
"""With fewer images, the next image often exceeds the measured ranges."""
_OPSET = 13
"""The first opset whose QuantizeLinear has an axis, which per-channel weights need."""
_LAYERS = ("Conv", "Gemm", "MatMul")
_OPERATORS = (*_LAYERS, "Relu", "Clip")
"""Operators that are quantised: layers, and what runtimes fuse into them. Quantising Add, Mul and pooling as well makes
files larger and embeddings worse (iresnet50: cosine .988 instead of .991) and no faster (.531 of float32's time
instead of .534)."""
_FLOAT32, _RANGES = "float32.onnx", "ranges.json"
_WORTHWHILE = 100
"""Fewest weights of a layer to quantise: int8 saves 3 bytes per weight, quantisers and scales cost about 250."""


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
        images: preprocessed calibration images float32 [N, ...], at least 16.
        method: how activation ranges follow from the measured values, see `int8_ranges`.
        keep: names of nodes that stay in float32.

    Raises:
        InputError: too few images, an unknown method, a name in `keep` that does not exist, no layer worth quantising,
            or a model that cannot be quantised.
    """
    with calibrated(model, images, method=method) as quantiser:
        quantiser.check_float32_nodes(keep)
        return quantiser.quantise(keep)


@contextmanager
def calibrated(
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    method: CalibrationMethod = "minmax",
    every_layer: bool = False,
    exact: bool = True,
) -> Iterator[Quantiser]:
    """A `Quantiser` for `model`; ranges are measured once, for any number of quantisations.

    Args:
        model: a float32 model with one input.
        images: preprocessed calibration images float32 [N, ...], at least 16.
        method: how activation ranges follow from the measured values.
        every_layer: also quantise layers so small that int8 makes the file larger.
        exact: even out channels without changing a bit of the float32 outputs, see `equalise_channels`.

    Raises:
        InputError: as in `to_int8`.
    """
    if method not in get_args(CalibrationMethod):
        raise InputError(f"int8: unknown calibration method {method!r}; {nearest(method, get_args(CalibrationMethod))}")
    if len(images) < FEWEST_IMAGES:
        raise InputError(f"int8: calibration needs at least {FEWEST_IMAGES} images, got {len(images)}; give more")
    named = named_nodes(model)
    prepared = equalise_channels(_prepared(named), images, exact=exact)
    with tempfile.TemporaryDirectory(prefix="rtool-int8-") as name:
        folder = Path(name)
        onnx.save(prepared, folder / _FLOAT32)
        with _quietly():
            try:
                _save_ranges(measure_ranges(prepared, images, method, _activations(prepared)), folder / _RANGES)
            except Exception as error:  # ONNX Runtime raises any type of error
                raise InputError(f"int8: the model cannot be calibrated ({error}); export with --fp16") from error
        operators = {node.name: node.op_type for node in prepared.graph.node}
        removed = frozenset(node.name for node in named.graph.node) - operators.keys()
        unprofitable = frozenset[str]() if every_layer else frozenset(unprofitable_nodes(prepared))
        yield Quantiser(method, folder, operators, removed, unprofitable)


@dataclass(frozen=True)
class Quantiser:
    """A model and the ranges of its activations, both in `folder`; made by `calibrated`."""

    method: CalibrationMethod
    folder: Path
    operators: Mapping[str, str]
    """Node name -> operator."""
    removed: frozenset[str]
    """Nodes of the source that the preparation removed: constants and aliases."""
    unprofitable: frozenset[str]
    """Nodes that always stay in float32, see `unprofitable_nodes`."""

    def check_float32_nodes(self, keep: Collection[str]) -> None:
        """Check a list of nodes that stay in float32.

        Raises:
            InputError: a name is not a node of this model, or no layer is left to quantise.
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

    @property
    def float32(self) -> onnx.ModelProto:
        """The model that is quantised: named nodes, weights as initializers, channel ranges evened out."""
        return onnx.load(self.folder / _FLOAT32)

    def quantise(self, keep: Collection[str] = (), *, compact: bool = True) -> onnx.ModelProto:
        """The int8 model; the nodes named in `keep` stay in float32. Without `compact`, names are as the quantiser's.

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
                    # A float32 bias is exact, smaller than int32 with per-channel scales, and all that TensorRT reads.
                    extra_options={"QuantizeBias": False},
                )
            except Exception as error:  # ONNX Runtime raises any type of error
                raise InputError(f"int8: the model cannot be quantised ({error}); export with --fp16") from error
        quantised = onnx.load(target)
        return compact_quantised(quantised) if compact else quantised


def unprofitable_nodes(model: onnx.ModelProto) -> list[str]:
    """Layers so small that quantisers and scales take more bytes than int8 saves, and nodes that only serve them.

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
    for node in model.graph.node:  # forwards: nodes that read only a small layer
        sources = [makers[name] for name in node.input if name in makers]
        if node.op_type not in _LAYERS and len(sources) == 1 and sources[0].name in small:
            small.add(node.name)
    for node in reversed(model.graph.node):  # backwards: nodes that only small layers read
        users = [user for name in node.output for user in readers.get(name, [])]
        if node.op_type not in _LAYERS and users and all(user.name in small for user in users):
            small.add(node.name)
    return [node.name for node in model.graph.node if node.name in small]


def check_slots(model: onnx.ModelProto, images: NDArray[Any], *, tolerance: float = 1e-5) -> None:
    """Check that the embedding of an image depends neither on its position nor on its neighbours in the batch.

    Args:
        model: the quantised model.
        images: preprocessed images [N, ...].
        tolerance: largest relative change of the embedding.

    Raises:
        GateError: an embedding changes by more.
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
    """Names of values that may be quantised: what the quantised operators read and write, without weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in _OPERATORS]
    names = dict.fromkeys(
        name for node in nodes for name in (*node.input[: 2 if node.op_type in _LAYERS else 1], *node.output[:1])
    )
    return [name for name in names if name and name not in weights]


def _save_ranges(ranges: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Write the ranges in the format that `quantize_static` reads."""
    from onnxruntime.quantization import calibrate

    found = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, found), path)


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with opset 13 or later, weights as initializers, beta 1 in every Gemm, inferred dtypes and shapes."""
    if len(_real_inputs(model)) != 1:
        raise InputError(f"int8: expected a model with one input, got {len(_real_inputs(model))}")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except RuntimeError as error:
            raise InputError(
                f"int8: opset {opset} cannot be raised to {_OPSET} ({error}); re-export the model"
            ) from error
    graph = ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(graph)
    drop_identities(graph)
    _fold_beta(graph.graph)
    return onnx.shape_inference.infer_shapes(ir.to_proto(graph))


def _fold_beta(graph: ir.Graph) -> None:
    """Multiply C of every Gemm, A B + beta C, by beta: the quantiser sets beta to 1 without changing C."""
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
    """Silence the log, warnings and printed advice of the quantiser."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
