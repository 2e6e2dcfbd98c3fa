"""Sequences of tensors inside a graph: Python lists and tuples. Sequences as graph inputs or outputs are refused."""

from __future__ import annotations

import operator
from typing import Any

import torch

from ..operation import Lowered, Op
from ..registry import lowers
from ..values import Integers

__all__: list[str] = []


@lowers("SplitToSequence", since=11, seen=24)
def split_to_sequence(op: Op) -> Lowered:
    """Pieces of given sizes along an axis; without sizes, pieces of size one."""
    axis = op.attr_int("axis", 0)
    if not op.has(1):
        whole = bool(op.attr_int("keepdims", 1))
        return op.call(torch.split, op.x(0), 1, axis) if whole else op.call(torch.unbind, op.x(0), axis)
    sizes: Any = op.integers(1)
    if op.shape(1) == ():
        sizes = sizes[0]
    return op.call(torch.split, op.x(0), sizes, axis)


@lowers("SequenceAt", since=11, seen=11)
def sequence_at(op: Op) -> Lowered:
    """One tensor of a sequence; negative positions count from the end."""
    position: Any = op.integers(1)
    return op.call(operator.getitem, op.x(0), position[0] if isinstance(position, list) else position)


@lowers("SequenceLength", since=11, seen=11)
def sequence_length(op: Op) -> Lowered:
    """The number of tensors in a sequence."""
    return Integers((op.call(len, op.x(0)),), scalar=True)


@lowers("ConcatFromSequence", since=11, seen=11)
def concat_from_sequence(op: Op) -> Lowered:
    """Join along an axis, or along a new one."""
    join = torch.stack if op.attr_int("new_axis", 0) else torch.cat
    return op.call(join, op.x(0), op.attr_int("axis"))
