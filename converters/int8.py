"""Quantise a float32 model to int8 in QDQ form: static, weights per channel, activations calibrated on real images.

Done by onnxruntime.quantization, whose reader wants files and an opset of 13; both are arranged here. Static scales are
constants, so an image's embedding cannot depend on its neighbours in the batch, as it would with dynamic ones;
`check_slots` proves it for the result.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import version_converter

from ..errors import GateError, InputError, nearest
from .runners import OnnxRunner
from .short_names import shorten_values, shorten_weights

__all__ = ["CalibrationMethod", "check_slots", "to_int8"]

CalibrationMethod = Literal["minmax", "entropy", "percentile"]

FEWEST_IMAGES = 16
"""Fewer images give ranges that the next image leaves."""
_OPSET = 13
"""The first opset whose QuantizeLinear has an axis, which weights per channel need."""
_BATCH = 8


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
        InputError: too few images, an unknown method, or a model that cannot be quantised.
    """
    if method not in get_args(CalibrationMethod):
        raise InputError(f"int8: unknown calibration method {method!r}; {nearest(method, get_args(CalibrationMethod))}")
    if len(images) < FEWEST_IMAGES:
        raise InputError(f"int8: calibration needs at least {FEWEST_IMAGES} images, got {len(images)}; give more")
    from onnxruntime import quantization as ort_quantization

    prepared = _prepared(model)
    methods = {
        "minmax": ort_quantization.CalibrationMethod.MinMax,
        "entropy": ort_quantization.CalibrationMethod.Entropy,
        "percentile": ort_quantization.CalibrationMethod.Percentile,
    }
    with tempfile.TemporaryDirectory(prefix="rtool-int8-") as folder, _quietly():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)
        try:
            ort_quantization.quantize_static(
                str(source),
                str(target),
                _Reader(prepared, images),
                quant_format=ort_quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=ort_quantization.QuantType.QUInt8,
                weight_type=ort_quantization.QuantType.QInt8,
                nodes_to_exclude=list(keep),
                calibrate_method=methods[method],
                extra_options={"CalibMovingAverage": False},
            )
        except Exception as error:  # the quantiser raises whatever its passes stumble over
            raise InputError(f"int8: the model cannot be quantised ({error}); export with --fp16") from error
        return _compact(onnx.load(target))


def _compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the names and types that the quantiser multiplied."""
    compacted = ir.from_proto(model)
    shorten_values(compacted)
    shorten_weights(compacted)
    for node in compacted.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = None
    result = ir.to_proto(compacted)
    del result.graph.value_info[:]
    return result


def check_slots(model: onnx.ModelProto, images: NDArray[Any], *, tolerance: float = 1e-5) -> None:
    """Prove that the embedding of an image does not depend on its place or its neighbours in the batch.

    Raises:
        GateError: it does.
    """
    runner = OnnxRunner(model)
    size = runner.batch or min(len(images), 4)
    if size < 2 or len(images) < size:
        return
    first = runner.run(images[:size])[0][0]
    for slot in range(size):
        louder = np.array(images[:size]) * images.dtype.type(-4)  # neighbours that stretch every range
        louder[slot] = images[0]
        error = float(np.abs(runner.run(louder)[0][slot] - first).max() / max(np.abs(first).max(), 1e-30))
        if not error <= tolerance:
            raise GateError(
                f"int8: an image's embedding changes by {error:.3g} in slot {slot} among other images; "
                "its scales depend on its neighbours"
            )


class _Reader:
    """Calibration images, a few at a time, as onnxruntime.quantization reads them."""

    def __init__(self, model: onnx.ModelProto, images: NDArray[np.float32]) -> None:
        runner = OnnxRunner(model)
        size = runner.batch or _BATCH
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = iter(
            [
                {runner.inputs[0].name: np.resize(images[start : start + size], (size, *images.shape[1:]))}
                for start in range(0, len(images), size)
            ]
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        return self._feeds


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """At least opset 13, with every type and shape known."""
    if len(_real_inputs(model)) != 1:
        raise InputError(f"int8: expected a model with one input, got {len(_real_inputs(model))}")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except RuntimeError as error:
            raise InputError(f"int8: opset {opset} cannot be raised to {_OPSET} ({error}); export it anew") from error
    return onnx.shape_inference.infer_shapes(model)


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
