"""Gather, Slice and Split; numbers from shapes stay numbers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..exact.axes import slice_axes
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import Integers

__all__: list[str] = []

_END = 2**31 - 1
"""A larger end means "to the end": exporters write INT64_MAX."""


@lowers("Gather", since=1, seen=13, trainable=True)
def gather(op: Op) -> Lowered:
    """Entries of an axis at given indices."""
    known, index = op.known(0), op.constant(1)
    if known is not None and not known.scalar and index is not None and index.ndim <= 1:
        chosen = tuple(known.items[int(i)] for i in index.reshape(-1))
        return Integers(chosen, scalar=index.ndim == 0)
    axis = op.attr_int("axis", 0) % op.rank(0)
    x = op.x(0)
    if index is not None and index.ndim == 0:
        return op.call(torch.select, x, axis, int(index))
    return _gather_tensor(op, x, axis)


def _gather_tensor(op: Op, x: fx.Node, axis: int) -> fx.Node:
    """Entries of an axis at a tensor of indices of any shape; negative indices count from the end."""
    prefix: tuple[Any, ...] = (slice(None),) * axis
    return op.call(operator.getitem, x, (*prefix, op.x(1)))


@lowers("Slice", since=10, seen=13)
def slice_(op: Op) -> Lowered:
    """Ranges of axes; written out if a step is negative, or axes or steps are known only at run time."""
    starts, ends = op.integers(1), op.integers(2)
    axes = op.constant(3) if op.has(3) else None
    steps = op.constant(4) if op.has(4) else None
    static = isinstance(starts, list) and isinstance(ends, list)
    known = static and op.has(3) == (axes is not None) and op.has(4) == (steps is not None)
    if not known or not isinstance(starts, list) or not isinstance(ends, list):
        optional = [op.integers(index) if op.has(index) else None for index in (3, 4)]
        return op.call(slice_axes, op.x(0), starts, ends, *optional)
    positions = list(range(len(starts))) if axes is None else [int(axis) for axis in axes.reshape(-1)]
    strides = [1] * len(starts) if steps is None else [int(step) for step in steps.reshape(-1)]
    return _sliced(op, starts, ends, positions, strides)


@lowers("Slice", since=1, until=10, seen=1)
def slice_of_old_opsets(op: Op) -> Lowered:
    """Slice before opset 10: the ranges are attributes."""
    starts, ends = op.attr_ints("starts", []) or [], op.attr_ints("ends", []) or []
    return _sliced(op, starts, ends, op.attr_ints("axes") or list(range(len(starts))), [1] * len(starts))


def _sliced(op: Op, starts: list[Any], ends: list[Any], axes: list[int], steps: list[int]) -> Lowered:
    known = op.known(0)
    if known is not None and all(isinstance(bound, int) for bound in (*starts, *ends)):
        return Integers(known.items[slice(starts[0], _end(ends[0], steps[0]), steps[0])])
    if any(step <= 0 for step in steps):
        return op.call(slice_axes, op.x(0), starts, ends, axes, steps)
    ranges: dict[int, slice] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first = None if isinstance(start, int) and start == 0 else start
        last = None if isinstance(end, int) and end >= _END else end
        ranges[axis % op.rank(0)] = slice(first, last, None if step == 1 else step)
    index = tuple(ranges.get(axis, slice(None)) for axis in range(max(ranges, default=-1) + 1))
    return op.call(operator.getitem, op.x(0), index)


def _end(end: int, step: int) -> int | None:
    if step > 0:
        return None if end >= _END else end
    return None if end <= -_END else end


@lowers("Split", since=1, seen=18)
def split(op: Op) -> Lowered:
    """Pieces along one axis, of given or equal sizes."""
    axis = op.attr_int("axis", 0)
    sizes: Any = op.integers(1) if op.has(1) else op.attr_ints("split")
    if sizes is None:
        sizes = _equal_sizes(op, axis)
    pieces = op.call(torch.split, op.x(0), sizes, axis)
    return [op.call(operator.getitem, pieces, i) if op.uses_output(i) else None for i in range(len(op.node.outputs))]


def _equal_sizes(op: Op, axis: int) -> list[int]:
    shape = op.shape(0)
    size = None if shape is None else shape[axis]
    parts = len(op.node.outputs)
    if not isinstance(size, int):
        raise op.refuse("splits an axis of unknown size into equal parts; give the sizes")
    part = -(-size // parts)
    return [min(part, size - part * index) for index in range(parts)]
