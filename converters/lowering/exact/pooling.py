"""Pooling that torch's functions cannot do: unequal paddings with any `count_include_pad`, and any window:
dilated, rounded up, over any number of axes.

Windows are reduced one axis after the other, as sums over strided slices. Lists have one entry per spatial axis; a
window that would start in the padding behind the input does not count.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import List  # noqa: UP035 - TorchScript knows only this spelling

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["average_pool_padded", "average_windows", "flat_indices", "max_windows", "norm_windows"]


def average_pool_padded(
    x: Tensor,
    kernel: List[int],  # noqa: UP006
    stride: List[int],  # noqa: UP006
    pads: List[int],  # noqa: UP006
    include_pad: bool,
) -> Tensor:
    """Average over windows of `x` [N, C, spatial...] padded by `pads` (in the order of `F.pad`).

    Without `include_pad` only elements of `x` itself count.
    """
    padded = F.pad(x, pads)
    pool = F.avg_pool1d if len(kernel) == 1 else F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
    averages = pool(padded, kernel, stride)
    if include_pad:
        return averages
    counted = pool(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, stride)
    return averages / counted


def _count(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil: bool) -> int:
    """The number of windows along an axis."""
    free = size + begin + end - dilation * (kernel - 1) - 1
    count = (free + stride - 1 if ceil else free) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + begin else count


def _sum_axis(x: Tensor, axis: int, kernel: int, stride: int, dilation: int, count: int) -> Tensor:
    """Sum over the windows along one axis of a padded tensor; entries missing at its end count as zero."""
    missing = (count - 1) * stride + dilation * (kernel - 1) + 1 - x.size(axis)
    if missing > 0:
        x = F.pad(x, [0] * (2 * (x.dim() - 1 - axis)) + [0, missing])
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for tap in range(kernel):
        part = x.narrow(axis, tap * dilation, (count - 1) * stride + 1)
        index = [slice(None)] * axis + [slice(None, None, stride)]
        total = total + part[tuple(index)]
    return total


def _sum_windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    ceil: bool,
) -> Tensor:
    for a in range(len(kernel)):
        axis = x.dim() - len(kernel) + a
        count = _count(x.size(axis), kernel[a], stride[a], dilation[a], begin[a], end[a], ceil)
        x = F.pad(x, [0] * (2 * (x.dim() - 1 - axis)) + [begin[a], end[a]])
        x = _sum_axis(x, axis, kernel[a], stride[a], dilation[a], count)
    return x


def average_windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    ceil: bool,
    include_pad: bool,
) -> Tensor:
    """Mean of each window; padding counts only if `include_pad`, entries added by rounding up never count."""
    total = _sum_windows(x, kernel, stride, dilation, begin, end, ceil)
    for a in range(len(kernel)):
        axis = x.dim() - len(kernel) + a
        count = _count(x.size(axis), kernel[a], stride[a], dilation[a], begin[a], end[a], ceil)
        inner = torch.ones(x.size(axis), dtype=x.dtype, device=x.device)
        inside = F.pad(inner, [begin[a], end[a]], value=1.0 if include_pad else 0.0)
        counted = _sum_axis(inside, 0, kernel[a], stride[a], dilation[a], count)
        total = total / counted.reshape([-1] + [1] * (x.dim() - 1 - axis))
    return total


def max_windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    ceil: bool,
) -> Tensor:
    """Maximum of each window; padding never wins."""
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    for a in range(len(kernel)):
        axis = x.dim() - len(kernel) + a
        count = _count(x.size(axis), kernel[a], stride[a], dilation[a], begin[a], end[a], ceil)
        reach = (count - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1
        last = max(end[a], reach - x.size(axis) - begin[a])
        x = F.pad(x, [0] * (2 * (x.dim() - 1 - axis)) + [begin[a], last], value=lowest)
        index = tuple([slice(None)] * axis + [slice(None, None, stride[a])])
        parts = [x.narrow(axis, tap * dilation[a], (count - 1) * stride[a] + 1)[index] for tap in range(kernel[a])]
        x = parts[0]
        for part in parts[1:]:
            x = torch.maximum(x, part)
    return x


def norm_windows(
    x: Tensor,
    p: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    ceil: bool,
) -> Tensor:
    """The p-norm of each window."""
    return _sum_windows(x.abs() ** p, kernel, stride, dilation, begin, end, ceil) ** (1 / p)


def flat_indices(indices: Tensor, spatial: Sequence[int], column_major: bool) -> Tensor:
    """Convert torch's positions within a plane [N, C, ...] to positions in the whole input [N, C, *spatial]."""
    size = 1
    for length in spatial:
        size *= length
    planes = torch.arange(indices.size(0) * indices.size(1), device=indices.device) * size
    if column_major:
        rest, flat, factor = indices, torch.zeros_like(indices), size
        for length in reversed(list(spatial)):
            factor //= length
            flat = flat + rest % length * factor
            rest = rest // length
        indices = flat
    return indices + planes.reshape(indices.size(0), indices.size(1), *[1] * len(spatial))
