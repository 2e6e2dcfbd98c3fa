"""The few collectives training needs, each of which does nothing in a single process.

Pair losses need the whole batch: `gather_rows` gives every rank all rows, with a gradient that is right if every rank
computes the same loss from them and DDP then averages the gradients of the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_reduce_sum", "barrier", "gather_numbers", "gather_rows", "gather_rows_summing", "rank", "world_size"]


def world_size() -> int:
    """Processes in the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over ranks, of any shape, without gradient; `values` is not changed."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gather_numbers(numbers: Iterable[int], device: torch.device) -> set[int]:
    """The union of the numbers of all ranks, which may differ in how many they have."""
    own = torch.tensor(sorted(numbers), dtype=torch.int64, device=device)
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = len(own)
    counts = all_reduce_sum(counts)
    most = int(counts.max())
    if most == 0:
        return set()
    table = torch.zeros(world_size(), most, dtype=torch.int64, device=device)
    table[rank(), : len(own)] = own
    rows = all_reduce_sum(table).tolist()
    return {number for row, count in zip(rows, counts.tolist(), strict=True) for number in row[:count]}


class _GatherRows(torch.autograd.Function):
    """All rows forward; backward, this rank's rows times the number of ranks (DDP will divide by it)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.count = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        start = rank() * ctx.count
        return gradient[start : start + ctx.count] * world_size()


class _GatherRowsSumming(torch.autograd.Function):
    """All rows forward; backward, this rank's rows of the sum over ranks, times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _GatherRows.forward(ctx, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return _GatherRows.backward(ctx, total)


def gather_rows_summing(rows: Tensor) -> Tensor:
    """As `gather_rows`, for losses of which each rank computes a part: the gradient is summed over ranks."""
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRowsSumming.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def gather_rows(rows: Tensor) -> Tensor:
    """Rows [n, ...] of each of W ranks, in rank order: [W n, ...]; every rank must have the same n.

    Backward, a rank gets the gradient of its own rows times W, because DDP divides by W.
    """
    if world_size() == 1:
        return rows
    if not rows.is_floating_point():
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered
