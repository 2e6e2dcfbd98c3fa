"""Linear quantisation: per tensor, per axis and per block (the last block may be short), integer products,
and casts to floats and integers of 8 bits and fewer, rounded, saturated or wrapped as ONNX defines it.

Types that torch does not have are held in wider ones: 2- and 4-bit integers in int8 and uint8, floats of 4 and 6 bits
and powers of two (E8M0) in float32. Their values are always some that the narrow type has.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "cast_to_float8",
    "cast_to_narrow_float",
    "cast_to_narrow_integer",
    "cast_to_power_of_two",
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
    limits: Sequence[int],
) -> Tensor:
    """`round(x / scale) + zero_point`, halves rounded to even, kept within `limits`, as integers of `dtype`."""
    levels = torch.round(x.to(precision) / spread(scale, x, axis, block).to(precision)).to(torch.float64)
    if zero_point is not None:
        levels = levels + spread(zero_point, x, axis, block).to(torch.float64)
    return levels.clamp(limits[0], limits[1]).to(dtype)


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


_MANTISSA_AND_LOWEST = {
    torch.float8_e4m3fn: (3, -6),
    torch.float8_e4m3fnuz: (3, -7),
    torch.float8_e5m2: (2, -14),
    torch.float8_e5m2fnuz: (2, -15),
}
"""Bits of the mantissa, and exponent of the smallest normal number."""


def _rounded(x: Tensor, mantissa: int, lowest: int) -> Tensor:
    """The nearest float64 with so many bits of mantissa, halves to even, subnormal below `2 ** lowest`."""
    x = x.to(torch.float64)
    exponent = torch.frexp(x).exponent - 1
    step = torch.exp2((exponent.clamp(min=lowest) - mantissa).to(torch.float64))
    return torch.where(torch.isfinite(x), torch.round(x / step) * step, x)


def cast_to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """Round `x` to `dtype`. Too large values become the largest number if `saturate`, else infinity or NaN."""
    largest = torch.finfo(dtype).max
    # Not by torch's cast alone: from float64 it rounds twice, and what it makes of too large values differs per dtype.
    mantissa, lowest = _MANTISSA_AND_LOWEST[dtype]
    nearest = _rounded(x, mantissa, lowest)
    if saturate:
        return nearest.clamp(-largest, largest).to(dtype)
    overflow = torch.inf if dtype == torch.float8_e5m2 else torch.nan
    return torch.where(
        nearest.abs() > largest, torch.copysign(torch.full_like(nearest, overflow), nearest), nearest
    ).to(dtype)


def cast_to_narrow_float(x: Tensor, mantissa: int, lowest: int, largest: float) -> Tensor:
    """Round `x` to a float of 4 or 6 bits, held in float32. These have no infinity and no NaN: too large values become
    the largest number, and NaN zero.
    """
    return torch.nan_to_num(_rounded(x, mantissa, lowest).clamp(-largest, largest)).to(torch.float32)


def cast_to_power_of_two(x: Tensor, round_mode: str, saturate: bool) -> Tensor:
    """Round the magnitude of `x` to E8M0, `2 ** -127` to `2 ** 127` or NaN, held in float32.

    `round_mode` is "up", "down", or "nearest" with ties up. Values out of range become the nearest number if
    `saturate`, else NaN.
    """
    x = x.to(torch.float64).abs()
    fraction, exponent = torch.frexp(x)
    exponent = exponent - 1
    if round_mode == "up":
        exponent = exponent + (fraction > 0.5)
    elif round_mode == "nearest":
        exponent = exponent + (fraction >= 0.75)
    exponent = torch.where(x == 0, -128, torch.where(torch.isinf(x), 128, exponent))
    known = ~torch.isnan(x) if saturate else ~torch.isnan(x) & (exponent >= -127) & (exponent <= 127)
    power = torch.exp2(exponent.clamp(-127, 127).to(torch.float64))
    return torch.where(known, power, torch.nan).to(torch.float32)


def cast_to_narrow_integer(x: Tensor, bits: int, signed: bool) -> Tensor:
    """The low `bits` bits of each integer, or of each float without its fraction, held in int8 or uint8."""
    low = torch.bitwise_and(x.to(torch.int64), 2**bits - 1)
    if signed:
        low = low - ((low >> (bits - 1)) << bits)
    return low.to(torch.int8 if signed else torch.uint8)
