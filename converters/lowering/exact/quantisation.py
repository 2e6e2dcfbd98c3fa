"""Linear quantisation: per tensor, per axis and per block (the last block may be short), integer products,
and casts to 8-bit floats that saturate or overflow as ONNX defines it (torch's casts differ per dtype).

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "cast_to_float8",
    "dequantize",
    "dynamic_quantize",
    "integer_convolution",
    "integer_matmul",
    "quantize",
    "requantize",
    "spread",
]


def spread(scale: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point, reshaped to broadcast with `x`."""
    if scale.numel() == 1 and scale.dim() <= 1:
        return scale.reshape(())
    if block:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.size(axis))
    shape = [1] * x.dim()
    shape[axis] = scale.numel()
    return scale.reshape(shape)


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int,
    block: int,
    precision: torch.dtype,
    dtype: torch.dtype,
) -> Tensor:
    """`saturate(round(x / scale) + zero_point)`, rounding halves to even, as integers of `dtype`."""
    levels = torch.round(x.to(precision) / spread(scale, x, axis, block).to(precision)).to(torch.float64)
    if zero_point is not None:
        levels = levels + spread(zero_point, x, axis, block).to(torch.float64)
    limits = torch.iinfo(dtype)
    return levels.clamp(limits.min, limits.max).to(dtype)


def dequantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, block: int, dtype: torch.dtype
) -> Tensor:
    """`(x - zero_point) * scale`."""
    levels = x.to(torch.float32) if x.is_floating_point() else x.to(torch.int64)
    if zero_point is not None:
        levels = levels - spread(zero_point, x, axis, block).to(levels.dtype)
    return levels.to(dtype) * spread(scale, x, axis, block).to(dtype)


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to uint8 by the range of `x` itself; return levels, scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = torch.where(high == low, 1.0, high - low) / 255
    zero_point = torch.round((-low / scale).clamp(0, 255))
    levels = (torch.round(x / scale) + zero_point).clamp(0, 255)
    return levels.to(torch.uint8), scale, zero_point.to(torch.uint8)


def _centred(x: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    """Levels minus their zero point, in float64: exact, and torch has all kernels for it."""
    levels = x.to(torch.float64)
    if zero_point is None:
        return levels
    if zero_point.numel() > 1 and zero_point.dim() == 1:
        shape = [1] * x.dim()
        shape[axis] = zero_point.numel()
        zero_point = zero_point.reshape(shape)
    return levels - zero_point.to(torch.float64)


def integer_matmul(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """Product of two integer matrices as int32; zero points are per tensor, row of `a` or column of `b`."""
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)).to(torch.int32)


def integer_convolution(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None,
    weight_zero: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of integers as int32; `pads` in the order of `F.pad`, padding counts as zero."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(stride) - 1]
    padded = F.pad(_centred(x, x_zero, 1), list(pads))
    addend = None if bias is None else bias.to(torch.float64)
    return convolve(padded, _centred(weight, weight_zero, 0), addend, stride, 0, dilation, groups).to(torch.int32)


def requantize(
    total: Tensor, a_scale: Tensor, b_scale: Tensor, y_scale: Tensor, y_zero: Tensor, channel_axis: int
) -> Tensor:
    """Quantise integer sums, whose scale is `a_scale * b_scale`, to `y_scale` and `y_zero`."""
    factor = a_scale * b_scale / y_scale
    if factor.numel() > 1 and factor.dim() == 1:
        shape = [1] * total.dim()
        shape[channel_axis] = factor.numel()
        factor = factor.reshape(shape)
    limits = torch.iinfo(y_zero.dtype)
    levels = torch.round(total.to(factor.dtype) * factor) + y_zero.to(factor.dtype)
    return levels.clamp(limits.min, limits.max).to(y_zero.dtype)


def cast_to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """Round `x` to `dtype`. Too large values become the largest number if `saturate`, else infinity or NaN."""
    largest = torch.finfo(dtype).max
    if saturate:
        return torch.clamp(x.float(), -largest, largest).to(dtype)
    if dtype == torch.float8_e4m3fn:
        # torch saturates; 464 is halfway to where the next number would be.
        x = torch.where(x.abs() > 464.0, torch.nan, x.float())
    return x.to(dtype)
