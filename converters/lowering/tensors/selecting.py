"""Gather and scatter by coordinates; TopK, Compress, NonZero, Unique, ReverseSequence, NonMaxSuppression."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..exact.selecting import (
    compress,
    gather_elements,
    gather_nd,
    non_maximum_suppression,
    reverse_sequences,
    scatter_elements,
    scatter_nd,
    unique,
)
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_REDUCTIONS = {"none": "none", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduction(op: Op) -> str:
    name = op.attr_string("reduction", "none")
    if name not in _REDUCTIONS:
        raise op.refuse(f"reduction={name} is unknown; known: {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS[name]


@lowers("GatherElements", since=11, seen=13)
def gather_elements_(op: Op) -> Lowered:
    """`out[i, j] = x[indices[i, j], j]` along an axis."""
    return op.call(gather_elements, op.x(0), op.x(1), op.attr_int("axis", 0))


@lowers("ScatterElements", since=11, seen=18)
@lowers("Scatter", since=9, until=11, seen=9)
def scatter_elements_(op: Op) -> Lowered:
    """`out[indices[i, j], j] = updates[i, j]` along an axis, or reduced with the old values."""
    return op.call(scatter_elements, op.x(0), op.x(1), op.x(2), op.attr_int("axis", 0), _reduction(op))


@lowers("GatherND", since=11, seen=13)
def gather_nd_(op: Op) -> Lowered:
    """Slices at coordinates."""
    return op.call(gather_nd, op.x(0), op.x(1), op.attr_int("batch_dims", 0))


@lowers("ScatterND", since=11, seen=18)
def scatter_nd_(op: Op) -> Lowered:
    """Slices written at coordinates, or reduced with the old values."""
    return op.call(scatter_nd, op.x(0), op.x(1), op.x(2), _reduction(op))


@lowers("Compress", since=9, seen=28)
def compress_(op: Op) -> Lowered:
    """Entries of an axis, or of the flattened tensor, where a condition holds."""
    x = op.x(0)
    if op.has_attribute("axis"):
        return op.call(compress, x, op.x(1), op.attr_int("axis"))
    return op.call(compress, op.call(torch.flatten, x), op.x(1), 0)


@lowers("ReverseSequence", since=10, seen=28)
def reverse_sequence(op: Op) -> Lowered:
    """The first `lengths[b]` steps of each sequence in reverse."""
    return op.call(reverse_sequences, op.x(0), op.x(1), op.attr_int("time_axis", 0), op.attr_int("batch_axis", 1))


@lowers("NonZero", since=9, seen=13)
def non_zero(op: Op) -> Lowered:
    """The coordinates of non-zero elements, one row per axis."""
    return op.call(torch.t, op.call(torch.nonzero, op.x(0)))


@lowers("Unique", since=11, seen=28)
def unique_(op: Op) -> Lowered:
    """Distinct entries of an axis or of the flattened tensor, with positions and counts."""
    axis = op.attr_int("axis") if op.has_attribute("axis") else None
    found = op.call(unique, op.x(0), axis, not op.attr_int("sorted", 1))
    return [op.call(operator.getitem, found, i) if op.uses_output(i) else None for i in range(len(op.node.outputs))]


@lowers("TopK", since=1, seen=24)
def top_k(op: Op) -> Lowered:
    """The first entries of a stable sort; torch.topk does not define the order of equal entries."""
    axis = op.attr_int("axis", -1)
    wanted: Any = [op.attr_int("k")] if op.opset < 10 else op.integers(1)
    count = wanted[0] if isinstance(wanted, list) else op.call(operator.getitem, wanted, 0)
    descending = bool(op.attr_int("largest", 1))
    ordered = op.call(torch.sort, op.x(0), dim=axis, descending=descending, stable=True)
    return [_first(op, ordered, output, axis, count) for output in (0, 1)]


def _first(op: Op, ordered: fx.Node, output: int, axis: int, count: Any) -> fx.Node | None:
    if not op.uses_output(output):
        return None
    return op.call(torch.narrow, op.call(operator.getitem, ordered, output), axis, 0, count)


@lowers("NonMaxSuppression", since=10, seen=11)
def non_max_suppression(op: Op) -> Lowered:
    """Greedy suppression of overlapping boxes, per image and class."""
    most, overlap = _scalar(op, 2, 0), _scalar(op, 3, 0.0)
    threshold = _scalar(op, 4, None)
    centred = bool(op.attr_int("center_point_box", 0))
    return op.call(non_maximum_suppression, op.x(0), op.x(1), most, overlap, threshold, centred)


def _scalar(op: Op, index: int, default: Any) -> Any:
    if not op.has(index):
        return default
    array = op.constant(index)
    return op.method("item", op.x(index)) if array is None else array.reshape(-1)[0].item()
