"""Compute Equal, Where, ConstantOfShape and Reshape on numbers from shapes as numbers, not as tensors.

`lower` tries this first. What cannot be decided at conversion (is N equal to 3?) is left to the operator's lowering.
The arithmetic operators do the same in `elementwise/arithmetic.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from torch import fx

from .operation import Op
from .values import Integers

__all__ = ["on_shape_numbers"]

_LONGEST = 64
"""Elements; a longer vector is data, not a shape."""


def on_shape_numbers(op: Op) -> Integers | None:
    """The result of `op` as known numbers; None for another operator, or where it cannot be decided."""
    function = _FUNCTIONS.get(op.type)
    return None if function is None or op.node.domain not in ("", "ai.onnx") else function(op)


def _equal(op: Op) -> Integers | None:
    left, right = op.known(0), op.known(1)
    if left is None or right is None:
        return None
    pairs = _aligned(left, right)
    answers = [_are_equal(a, b) for a, b in pairs or ()]
    if pairs is None or any(answer is None for answer in answers):
        return None
    return Integers(tuple(int(bool(a)) for a in answers), scalar=left.scalar and right.scalar, boolean=True)


def _are_equal(a: int | fx.Node, b: int | fx.Node) -> bool | None:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a is b:
        return True
    for number, node in ((a, b), (b, a)):
        if isinstance(number, int) and number < 0 and isinstance(node, fx.Node) and node.target == "size":
            return False
    return None


def _where(op: Op) -> Integers | None:
    condition, left, right = op.known(0), op.known(1), op.known(2)
    if condition is None or left is None or right is None or condition.static is None:
        return None
    length = max(len(part.items) for part in (condition, left, right))
    parts = [_stretched(part, length) for part in (condition, left, right)]
    if any(part is None for part in parts):
        return None
    chosen = tuple(a if flag else b for flag, a, b in zip(*(part or () for part in parts), strict=True))
    return Integers(chosen, scalar=condition.scalar and left.scalar and right.scalar)


def _constant_of_shape(op: Op) -> Integers | None:
    shape = op.known(0)
    value = op.raw_attribute("value")
    if shape is None or value is None or value.dtype != ir.DataType.INT64 or len(shape.items) > 1:
        return None
    length = shape.items[0] if shape.items else 1
    if not isinstance(length, int) or length > _LONGEST:
        return None
    number = int(np.asarray(value.numpy()).reshape(-1)[0])
    return Integers((number,) * length, scalar=not shape.items)


def _reshape(op: Op) -> Integers | None:
    numbers, target = op.known(0), op.constant(1)
    if numbers is None or target is None or numbers.scalar or target.tolist() not in ([-1], [len(numbers.items)]):
        return None
    return numbers


def _aligned(left: Integers, right: Integers) -> list[tuple[int | fx.Node, int | fx.Node]] | None:
    length = max(len(left.items), len(right.items))
    a, b = _stretched(left, length), _stretched(right, length)
    return None if a is None or b is None else list(zip(a, b, strict=True))


def _stretched(part: Integers, length: int) -> tuple[int | fx.Node, ...] | None:
    if len(part.items) == length:
        return part.items
    return part.items * length if len(part.items) == 1 else None


_FUNCTIONS: dict[str, Callable[[Op], Integers | None]] = {
    "ConstantOfShape": _constant_of_shape,
    "Equal": _equal,
    "Reshape": _reshape,
    "Where": _where,
}
