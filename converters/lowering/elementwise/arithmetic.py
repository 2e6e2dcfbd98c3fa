"""Element-wise arithmetic and comparisons, with NumPy broadcasting; numbers computed from shapes stay numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ...records.node_facts import facts_of, set_facts
from ..exact.axes import align_to_axis
from ..exact.unsigned import (
    unsigned_add,
    unsigned_div,
    unsigned_greater,
    unsigned_maximum,
    unsigned_minimum,
    unsigned_mul,
    unsigned_remainder,
    unsigned_sub,
)
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import Integers, torch_dtype, without_kernels

__all__: list[str] = []


def _on_numbers(op: Op, function: Callable[[Any, Any], Any]) -> Integers | None:
    """Apply a function of two integers to each pair of numbers, if both inputs are known numbers; else None."""
    left, right = op.known(0), op.known(1)
    if left is None or right is None:
        return None
    length = max(len(left.items), len(right.items))
    if {len(left.items), len(right.items)} - {1, length}:
        return None
    pairs = zip(_repeat(left.items, length), _repeat(right.items, length), strict=True)
    items = tuple(_apply(op, function, a, b) for a, b in pairs)
    return Integers(items, scalar=left.scalar and right.scalar)


def _repeat(items: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    return items * length if len(items) == 1 else items


def _apply(op: Op, function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return function(a, b)
    if function is operator.mul and 1 in (a, b):
        return b if a == 1 else a
    if function is operator.floordiv and b == 1:
        return a
    node = op.call(function, a, b)
    nonnegative = function is not operator.sub and _is_nonnegative(a) and _is_nonnegative(b)
    set_facts(node, replace(facts_of(node), nonnegative=nonnegative))
    return node


def _is_nonnegative(item: int | fx.Node) -> bool:
    if isinstance(item, int):
        return item >= 0
    return item.target == "size" or facts_of(item).nonnegative


def _computed(op: Op, function: Callable[..., Any], unsigned: Callable[..., Any]) -> Lowered:
    if without_kernels(op.dtype(0)):
        return op.call(unsigned, op.x(0), op.x(1))
    known = _on_numbers(op, function)
    return known if known is not None else op.call(function, op.operand(0), op.operand(1))


@lowers("Add", since=7, seen=14)
def add(op: Op) -> Lowered:
    """Sum."""
    return _computed(op, operator.add, unsigned_add)


@lowers("Sub", since=7, seen=14)
def sub(op: Op) -> Lowered:
    """Difference."""
    return _computed(op, operator.sub, unsigned_sub)


@lowers("Mul", since=7, seen=14)
def mul(op: Op) -> Lowered:
    """Product."""
    return _computed(op, operator.mul, unsigned_mul)


@lowers("Div", since=7, seen=14)
def div(op: Op) -> Lowered:
    """Quotient; of integers, rounded towards zero."""
    if op.is_float(0):
        return op.call(operator.truediv, op.operand(0), op.operand(1))
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_div, op.x(0), op.x(1))
    left, right = op.known(0), op.known(1)
    if left and right and all(_is_nonnegative(item) for item in (*left.items, *right.items)):
        known = _on_numbers(op, operator.floordiv)
        if known is not None:
            return known
    return op.call(torch.div, op.x(0), op.x(1), rounding_mode="trunc")


@lowers("Pow", since=7, seen=15)
def pow_(op: Op) -> Lowered:
    """Power; the result has the dtype of the base."""
    if not op.is_float(0) or op.dtype(0) != op.dtype(1):
        exponent = op.x(1)
        if op.is_float(0) and without_kernels(op.dtype(1)):  # torch's gradient would compute with it
            exponent = op.method("to", exponent, torch_dtype(op.dtype(0)))
        result = op.call(torch.pow, op.x(0), exponent)
        return op.call(torch.Tensor.type_as, result, op.x(0))
    return op.call(operator.pow, op.operand(0), op.operand(1))


def _reduce_pairwise(op: Op, function: Callable[..., Any]) -> fx.Node:
    result = op.x(0)
    for index in range(1, op.count):
        result = op.call(function, result, op.x(index))
    return result


@lowers("Min", since=1, seen=13)
def minimum(op: Op) -> Lowered:
    """Smallest of all inputs."""
    return _reduce_pairwise(op, unsigned_minimum if without_kernels(op.dtype(0)) else torch.minimum)


@lowers("Max", since=1, seen=13)
def maximum(op: Op) -> Lowered:
    """Largest of all inputs."""
    return _reduce_pairwise(op, unsigned_maximum if without_kernels(op.dtype(0)) else torch.maximum)


@lowers("Sum", since=1, seen=13)
def sum_(op: Op) -> Lowered:
    """Sum of all inputs."""
    return _reduce_pairwise(op, operator.add)


@lowers("Mean", since=1, seen=13)
def mean(op: Op) -> Lowered:
    """Mean of all inputs."""
    return op.call(operator.truediv, _reduce_pairwise(op, operator.add), op.count)


@lowers("Mod", since=10, seen=28)
def mod(op: Op) -> Lowered:
    """Remainder with the sign of the divisor, or of the dividend if `fmod` is set."""
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_remainder, op.x(0), op.x(1))
    return op.call(torch.fmod if op.attr_int("fmod", 0) else torch.remainder, op.x(0), op.operand(1))


@lowers("Where", since=9, seen=16)
def where(op: Op) -> Lowered:
    """Elements of the second input where the condition holds, else of the third."""
    return op.call(torch.where, op.x(0), op.x(1), op.x(2))


@lowers("Equal", since=7, seen=19)
def equal(op: Op) -> Lowered:
    """Element-wise equality."""
    return op.call(torch.eq, op.x(0), op.operand(1))


@lowers("Greater", since=7, seen=13)
def greater(op: Op) -> Lowered:
    """Element-wise comparison."""
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_greater, op.x(0), op.x(1))
    return op.call(torch.gt, op.x(0), op.operand(1))


@lowers("Less", since=7, seen=13)
def less(op: Op) -> Lowered:
    """Element-wise comparison."""
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_greater, op.x(1), op.x(0))
    return op.call(torch.lt, op.x(0), op.operand(1))


@lowers("Not", since=1, seen=1)
def not_(op: Op) -> Lowered:
    """Logical not."""
    return op.call(torch.logical_not, op.x(0))


_OLD: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "Pow": operator.pow,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
}


def _register_old(name: str, function: Callable[..., Any]) -> None:
    @lowers(name, until=7, seen=6)
    def lowered(op: Op) -> Lowered:
        """Before opset 7, attributes state whether the second tensor is broadcast, and from which axis."""
        if op.type == "Div" and not op.is_float(0):
            return op.call(torch.div, op.x(0), op.x(1), rounding_mode="trunc")
        if not op.attr_int("broadcast", 0) or not op.has_attribute("axis"):
            return op.call(function, op.operand(0), op.operand(1))
        rank = op.rank(0)
        return op.call(function, op.x(0), op.call(align_to_axis, op.x(1), op.attr_int("axis") % rank, rank))


for _name, _function in _OLD.items():
    _register_old(_name, _function)
