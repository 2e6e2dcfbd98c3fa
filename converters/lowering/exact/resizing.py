"""ONNX's Resize with every mode, coordinate transformation and rounding; `F.interpolate` has only some of them.

Axes are resized one after the other: every output position is a weighted sum of a few input positions ("taps").
Positions and weights are computed in float64 from float32 scales, as ONNX defines it. ONNX Runtime differs in two
cases: it aligns corners (and crops) by the rounded size where a scale gives a fractional one, and its float32 positions
round ties differently.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["resize", "sizes_keeping_aspect"]


def _float32(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


def sizes_keeping_aspect(x: Tensor, axes: Sequence[int], sizes: Sequence[int], larger: bool) -> list[int]:
    """Sizes with one factor for all axes: the largest (if `larger`) or smallest of the requested factors."""
    ratios = [size / x.size(axis) for axis, size in zip(axes, sizes)]  # noqa: B905
    factor = max(ratios) if larger else min(ratios)
    return [math.floor(factor * x.size(axis) + 0.5) for axis in axes]


def _positions(
    inputs: int,
    outputs: int,
    length: float,
    scale: float,
    coordinates: str,
    start: float,
    end: float,
    device: torch.device,
) -> Tensor:
    """The input position of each output; `length` is the output size before rounding."""
    steps = torch.arange(outputs, dtype=torch.float64, device=device)
    if coordinates == "align_corners":
        return steps * 0 if length == 1 else steps * (inputs - 1) / (length - 1)
    if coordinates == "asymmetric":
        return steps / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (steps + 0.5) / scale
    if coordinates == "tf_crop_and_resize":
        if length == 1:
            return steps * 0 + (end - start) * (inputs - 1) / 2 + start * (inputs - 1)
        return steps * (end - start) * (inputs - 1) / (length - 1) + start * (inputs - 1)
    if coordinates == "pytorch_half_pixel" and length == 1:
        return steps * 0 - 0.5
    if coordinates == "half_pixel_symmetric":
        return inputs / 2 * (1 - outputs / length) + (steps + 0.5) / scale - 0.5
    return (steps + 0.5) / scale - 0.5


def _nearest(positions: Tensor, rounding: str) -> Tensor:
    if rounding == "round_prefer_floor":
        return torch.ceil(positions - 0.5)
    if rounding == "round_prefer_ceil":
        return torch.floor(positions + 0.5)
    return torch.ceil(positions) if rounding == "ceil" else torch.floor(positions)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel of Keys (1981) with parameter `a`."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


def _taps(positions: Tensor, mode: str, scale: float, antialias: bool, a: float) -> tuple[Tensor, Tensor]:
    """Input positions [outputs, taps], possibly outside the input, and their weights."""
    shrink = min(scale, 1.0) if antialias else 1.0
    before = math.floor(-(2 if mode == "cubic" else 1) / shrink) + 1
    offsets = torch.arange(before, 2 - before, device=positions.device)
    left = torch.ceil(positions) - 1
    distance = (offsets - (positions - left).unsqueeze(1)) * shrink
    weights = _cubic(distance, a) if mode == "cubic" else (1 - distance.abs()).clamp(min=0)
    if antialias:
        weights = weights / weights.sum(1, keepdim=True)
    return left.to(torch.int64).unsqueeze(1) + offsets, weights


def _resize_axis(
    x: Tensor,
    axis: int,
    positions: Tensor,
    scale: float,
    mode: str,
    rounding: str,
    antialias: bool,
    exclude_outside: bool,
    a: float,
) -> Tensor:
    last = x.size(axis) - 1
    if mode == "nearest":
        return x.index_select(axis, _nearest(positions, rounding).to(torch.int64).clamp(0, last))
    indices, weights = _taps(positions, mode, scale, antialias, a)
    if exclude_outside:
        weights = torch.where((indices < 0) | (indices > last), 0.0, weights)
        weights = weights / weights.sum(1, keepdim=True)
    shape = [1] * x.dim()
    shape[axis] = -1
    result = None
    for tap in range(indices.size(1)):
        piece = x.index_select(axis, indices[:, tap].clamp(0, last)) * weights[:, tap].to(x.dtype).reshape(shape)
        result = piece if result is None else result + piece
    return x if result is None else result


def resize(
    x: Tensor,
    axes: Sequence[int],
    sizes: Sequence[int] | None,
    scales: Sequence[float] | None,
    mode: str,
    coordinates: str,
    rounding: str,
    antialias: bool = False,
    exclude_outside: bool = False,
    cubic_coefficient: float = -0.75,
    region: Sequence[float] | None = None,
    outside: float = 0.0,
) -> Tensor:
    """Resize `axes` of `x` to `sizes` or by `scales`; `region` is the crop, all starts before all ends.

    `outside` is the value of positions of the region that lie outside the input.
    """
    for position, axis in enumerate(axes):
        inputs = x.size(axis)
        if sizes is None:
            scale = scales[position] if scales is not None else 1.0
            length = inputs * int(scale) if scale == int(scale) else _float32(inputs * scale)
            outputs = math.floor(length)
        else:
            outputs = sizes[position]
            scale = outputs / inputs
            length = scale * inputs
        if outputs == inputs and scale == 1.0 and region is None:
            continue
        start, end = (0.0, 1.0) if region is None else (region[position], region[len(axes) + position])
        where = _positions(inputs, outputs, length, scale, coordinates, start, end, x.device)
        x = _resize_axis(x, axis, where, scale, mode, rounding, antialias, exclude_outside, cubic_coefficient)
        if region is not None:
            shape = [1] * x.dim()
            shape[axis] = -1
            x = torch.where(((where < 0) | (where > inputs - 1)).reshape(shape), outside, x)
    return x
