"""Reductions over axes: sum, mean, maximum, minimum, product, norms; axes are an attribute or, later, an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..exact.reductions import largest, log_sum, log_sum_exp, product, smallest, sum_of_magnitudes, sum_of_squares
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []


def _axes(op: Op) -> Sequence[int | fx.Node] | fx.Node | None:
    """The axes to reduce; None for all of them, [] for none."""
    axes = op.integers(1) if op.has(1) else op.attr_ints("axes")
    if isinstance(axes, fx.Node) or axes:
        return axes
    return [] if op.attr_int("noop_with_empty_axes", 0) else None


def _reduce(op: Op, function: Callable[..., Any]) -> Lowered:
    if 0 in (op.shape(0) or ()):
        function = _ON_EMPTY_AXES.get(op.type, function)
    axes = _axes(op)
    keep = bool(op.attr_int("keepdims", 1))
    if axes == []:
        return op.call(function, op.call(torch.unsqueeze, op.x(0), 0), [0])
    if axes is None:
        axes = list(range(op.rank(0)))
    return op.call(function, op.x(0), axes, **({"keepdim": True} if keep else {}))


_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "ReduceMean": (torch.mean, 18),
    "ReduceSum": (torch.sum, 13),
    "ReduceMax": (torch.amax, 20),
    "ReduceMin": (torch.amin, 20),
    "ReduceL1": (sum_of_magnitudes, 18),
    "ReduceL2": (torch.linalg.vector_norm, 18),
    "ReduceLogSum": (log_sum, 28),
    "ReduceLogSumExp": (log_sum_exp, 28),
    "ReduceProd": (product, 18),
    "ReduceSumSquare": (sum_of_squares, 18),
}
_ON_EMPTY_AXES: dict[str, Callable[..., Any]] = {"ReduceMax": largest, "ReduceMin": smallest}
"""Functions for reduced axes without entries, which torch refuses."""


def _register(operator: str, function: Callable[..., Any], seen: int) -> None:
    @lowers(operator, since=1, seen=seen)
    def lowered(op: Op) -> Lowered:
        if function is torch.linalg.vector_norm:
            return _reduce_norm(op)
        return _reduce(op, function)


def _reduce_norm(op: Op) -> Lowered:
    axes = _axes(op)
    if axes == []:
        return op.call(torch.abs, op.x(0))
    return op.call(torch.linalg.vector_norm, op.x(0), 2, axes, bool(op.attr_int("keepdims", 1)))


for _operator, (_function, _seen) in _FUNCTIONS.items():
    _register(_operator, _function, _seen)
