"""Counting: ranges, running sums and products, one-hot rows.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["accumulate", "count_up", "one_hot"]


def count_up(
    start: float, limit: float, delta: float, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """`start + i * delta` up to, not including, `limit`; empty if the sign of `delta` leads away from it."""
    steps = -((start - limit) // delta) if isinstance(delta, int) else math.ceil((limit - start) / delta)
    return start + torch.arange(max(int(steps), 0), dtype=dtype, device=device) * delta


def accumulate(x: Tensor, axis: int, product: bool, exclusive: bool, reverse: bool) -> Tensor:
    """Running sum or product along `axis`; `exclusive` leaves out the element itself."""
    x = x.flip(axis) if reverse else x
    if exclusive:
        first = x.narrow(axis, 0, 1)
        first = torch.ones_like(first) if product else torch.zeros_like(first)
        x = torch.cat([first, x.narrow(axis, 0, x.size(axis) - 1)], axis)
    y = torch.cumprod(x, axis, dtype=x.dtype) if product else torch.cumsum(x, axis, dtype=x.dtype)
    return y.flip(axis) if reverse else y


def one_hot(indices: Tensor, depth: int, values: Tensor, axis: int) -> Tensor:
    """Rows of `values[0]` with `values[1]` at each index; indices outside [-depth, depth) give no hot entry."""
    wrapped = indices.to(torch.int64)
    wrapped = torch.where(wrapped < 0, wrapped + depth, wrapped)
    rank = indices.dim() + 1
    axis = axis + rank if axis < 0 else axis
    shape = [1] * rank
    shape[axis] = depth
    positions = torch.arange(depth, device=indices.device).reshape(shape)
    return torch.where(wrapped.unsqueeze(axis) == positions, values[1], values[0])
