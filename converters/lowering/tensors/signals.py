"""Signal processing: DFT, STFT, cosine windows, mel filters."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from ..exact.signals import cosine_window, fourier_transform, mel_weights, short_time_fourier
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import torch_dtype

__all__: list[str] = []

_WINDOWS: dict[str, tuple[float, ...]] = {
    "HannWindow": (0.5, 0.5),
    "HammingWindow": (25 / 46, 21 / 46),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


def _scalar(op: Op, index: int) -> Any:
    array = op.constant(index)
    return op.method("item", op.x(index)) if array is None else array.reshape(-1)[0].item()


def _output_dtype(op: Op) -> torch.dtype:
    target = ir.DataType(op.attr_int("output_datatype", 1))
    dtype = torch_dtype(target)
    if dtype is None:
        raise op.refuse(f"torch has no element type for {target.name}")
    return dtype


@lowers("DFT", since=17, seen=20)
def dft(op: Op) -> Lowered:
    """Fourier transform along one axis; the axis is an attribute before opset 20."""
    if op.opset < 20:
        axis: Any = op.attr_int("axis", 1)
    else:
        axis = _scalar(op, 2) if op.has(2) else -2
    length = _scalar(op, 1) if op.has(1) else None
    return _transform(op, length, axis)


def _transform(op: Op, length: Any, axis: Any) -> fx.Node:
    inverse, onesided = bool(op.attr_int("inverse", 0)), bool(op.attr_int("onesided", 0))
    return op.call(fourier_transform, op.x(0), length, axis, inverse, onesided)


@lowers("STFT", since=17, seen=17)
def stft(op: Op) -> Lowered:
    """Fourier transforms of overlapping frames."""
    length = _scalar(op, 3) if op.has(3) else op.size(2, 0)
    window = op.x(2) if op.has(2) else None
    return op.call(short_time_fourier, op.x(0), _scalar(op, 1), window, length, bool(op.attr_int("onesided", 1)))


@lowers("HannWindow", since=17, seen=17)
@lowers("HammingWindow", since=17, seen=17)
@lowers("BlackmanWindow", since=17, seen=17)
def window(op: Op) -> Lowered:
    """A Hann, Hamming or Blackman window: a sum of cosines."""
    periodic = bool(op.attr_int("periodic", 1))
    return op.call(cosine_window, _scalar(op, 0), _WINDOWS[op.type], periodic, _output_dtype(op), **op.builder.device())


@lowers("MelWeightMatrix", since=17, seen=17)
def mel_weight_matrix(op: Op) -> Lowered:
    """Filters that turn a spectrum into mel bands."""
    return op.call(mel_weights, *(_scalar(op, index) for index in range(5)), _output_dtype(op), **op.builder.device())
