"""Padding: SAME for sizes known only at run time (ONNX's `auto_pad`, as TensorFlow defined it), by repeating, mirroring
or wrapping around any axis by any amount, and centred cropping.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import List  # noqa: UP035 - TorchScript knows only this spelling

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["center_crop_pad", "pad_axes", "pad_from_content", "pad_same"]


def pad_same(
    x: Tensor,
    kernel: List[int],  # noqa: UP006
    stride: List[int],  # noqa: UP006
    dilation: List[int],  # noqa: UP006
    upper: bool,
    value: float = 0.0,
) -> Tensor:
    """Pad the last `len(kernel)` axes of `x` so that a window leaves `ceil(size / stride)` positions.

    An odd total puts the extra element at the end when `upper`, else at the beginning.
    """
    pads: List[int] = []  # noqa: UP006
    spatial = len(kernel)
    for index in range(spatial):
        axis = spatial - 1 - index
        size = x.size(x.dim() - 1 - index)
        outputs = (size + stride[axis] - 1) // stride[axis]
        total = max((outputs - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size, 0)
        small = total // 2
        if upper:
            pads += [small, total - small]
        else:
            pads += [total - small, small]
    return F.pad(x, pads, value=value)


def pad_from_content(x: Tensor, axes: Sequence[int], pads: Sequence[int], mode: str) -> Tensor:
    """Extend `axes` by copies of elements of `x`; `pads` has all begins before all ends; negative ones crop first.

    `mode` is "edge", "reflect" (the edge itself is not repeated) or "wrap".
    """
    for position, axis in enumerate(axes):
        begin, end = pads[position], pads[len(axes) + position]
        if begin == 0 and end == 0:
            continue
        x = x.narrow(axis, max(-begin, 0), x.size(axis) + min(begin, 0) + min(end, 0))
        begin, end, size = max(begin, 0), max(end, 0), x.size(axis)
        where = torch.arange(-begin, size + end, device=x.device)
        if mode == "edge":
            where = where.clamp(0, size - 1)
        elif mode == "wrap":
            where = where % size
        else:
            period = max(2 * (size - 1), 1)
            where = where % period
            where = torch.where(where >= size, period - where, where)
        x = x.index_select(axis, where)
    return x


def pad_axes(x: Tensor, axes: Sequence[int], pads: Sequence[int], mode: str, value: float) -> Tensor:
    """Extend axes that are known only at run time; `mode` may also be "constant"."""
    if mode != "constant":
        return pad_from_content(x, axes, pads, mode)
    ordered = [0] * (2 * x.dim())
    for position, axis in enumerate(axes):
        place = 2 * (x.dim() - 1 - axis % x.dim())
        ordered[place], ordered[place + 1] = pads[position], pads[len(axes) + position]
    return F.pad(x, ordered, value=value)


def center_crop_pad(x: Tensor, axes: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Crop or zero-pad `axes` around their middle to `sizes`."""
    pads = [0] * (2 * x.dim())
    for axis, size in zip(axes, sizes):  # noqa: B905
        missing = size - x.size(axis)
        first = missing // 2 if missing >= 0 else -(-missing // 2)
        place = 2 * (x.dim() - 1 - axis)
        pads[place], pads[place + 1] = first, missing - first
    return F.pad(x, pads)
