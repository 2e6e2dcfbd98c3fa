"""Slicing and reshaping by numbers known only at run time, slicing with negative steps, and ONNX's Expand, which
broadcasts in both directions.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import List  # noqa: UP035 - TorchScript knows only this spelling

import torch
from torch import Tensor

__all__ = ["align_to_axis", "expand_both_ways", "reshape_to", "slice_axes", "squeeze_axes", "unsqueeze_axes"]


def slice_axes(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> Tensor:
    """`x[start:end:step]` on several axes; negative steps mean what they mean in Python."""
    for position, (start, end) in enumerate(zip(starts, ends)):  # noqa: B905
        axis = position if axes is None else axes[position] % x.dim()
        step = 1 if steps is None else steps[position]
        # An end before the first entry stays there; -1 would mean the last entry.
        last = None if step < 0 and end < -x.size(axis) else end
        positions = range(x.size(axis))[slice(start, last, step)]
        index = torch.arange(positions.start, positions.stop, step, device=x.device) if positions else None
        x = x.narrow(axis, 0, 0) if index is None else x.index_select(axis, index)
    return x


def reshape_to(x: Tensor, shape: Sequence[int], allow_zero: bool) -> Tensor:
    """Reshape; a zero keeps the dimension unless `allow_zero`."""
    if not allow_zero:
        shape = [x.size(axis) if size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(list(shape))


def unsqueeze_axes(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Insert axes of size one."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze_axes(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Remove axes of size one."""
    return x.squeeze(tuple(axes)) if len(axes) else x


def align_to_axis(x: Tensor, axis: int, rank: int) -> Tensor:
    """`x` with its first axis at `axis` of a tensor of `rank`: how ONNX broadcast before opset 7."""
    return x.reshape(list(x.shape) + [1] * (rank - axis - x.dim()))


def expand_both_ways(x: Tensor, shape: List[int]) -> Tensor:  # noqa: UP006
    """Broadcast `x` and a tensor of `shape` together."""
    sizes = list(x.shape)
    added = len(shape) - len(sizes)
    wanted = [1] * (-added) + list(shape)
    sizes = [1] * added + sizes
    return x.expand([size if want == 1 else want for size, want in zip(sizes, wanted)])  # noqa: B905
