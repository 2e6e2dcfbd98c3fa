"""Logical and bitwise operators, comparisons with equality, tests for NaN and infinity, reinterpreted bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from ..exact.unsigned import unsigned_greater_equal, unsigned_invert, unsigned_shift_left, unsigned_shift_right
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import is_widened, torch_dtype, without_kernels

__all__: list[str] = []

_PAIRWISE: dict[str, tuple[Callable[..., Any], int, int]] = {
    "And": (torch.logical_and, 7, 7),
    "Or": (torch.logical_or, 7, 7),
    "Xor": (torch.logical_xor, 7, 7),
    "BitwiseAnd": (torch.bitwise_and, 18, 18),
    "BitwiseOr": (torch.bitwise_or, 18, 18),
    "BitwiseXor": (torch.bitwise_xor, 18, 18),
}
"""Operator -> function of two tensors, first opset, newest schema read."""


def _register(operator: str, function: Callable[..., Any], since: int, seen: int) -> None:
    @lowers(operator, since=since, seen=seen)
    def lowered(op: Op) -> Lowered:
        return op.call(function, op.x(0), op.x(1))


for _operator, (_function, _since, _seen) in _PAIRWISE.items():
    _register(_operator, _function, _since, _seen)


@lowers("GreaterOrEqual", since=12, seen=16)
def greater_or_equal(op: Op) -> Lowered:
    """Element-wise comparison."""
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_greater_equal, op.x(0), op.x(1))
    return op.call(torch.ge, op.x(0), op.operand(1))


@lowers("LessOrEqual", since=12, seen=16)
def less_or_equal(op: Op) -> Lowered:
    """Element-wise comparison."""
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_greater_equal, op.x(1), op.x(0))
    return op.call(torch.le, op.x(0), op.operand(1))


@lowers("BitwiseNot", since=18, seen=18)
def bitwise_not(op: Op) -> Lowered:
    """Every bit flipped."""
    return op.call(unsigned_invert if without_kernels(op.dtype(0)) else torch.bitwise_not, op.x(0))


@lowers("BitShift", since=11, seen=28)
def bit_shift(op: Op) -> Lowered:
    """Bits shifted left or right; before opset 28 integers are unsigned."""
    left = op.attr_string("direction") == "LEFT"
    if without_kernels(op.dtype(0)):
        return op.call(unsigned_shift_left if left else unsigned_shift_right, op.x(0), op.x(1))
    return op.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, op.x(0), op.x(1))


@lowers("BitCast", since=26, seen=26)
def bit_cast(op: Op) -> Lowered:
    """The same bits as another dtype."""
    target = ir.DataType(op.attr_int("to"))
    dtype = torch_dtype(target)
    if dtype is None:
        raise op.refuse(f"torch has no element type for {target.name}")
    if is_widened(target) or is_widened(op.dtype(0)):
        raise op.refuse(f"torch holds {target.name} or {op.dtype(0).name} in a wider dtype of other bits; use Cast")
    if target.bitwidth != op.dtype(0).bitwidth:
        raise op.refuse(f"{op.dtype(0).name} and {target.name} differ in size; the file is damaged, re-export it")
    # Not `x.view(dtype)`, which torch.jit.trace cannot record (an internal assertion in torch 2.13).
    return op.call(torch.view_copy, op.x(0), dtype=dtype)


@lowers("IsNaN", since=9, seen=20)
def is_nan(op: Op) -> Lowered:
    """Whether each element is NaN."""
    return op.call(torch.isnan, op.x(0))


@lowers("IsInf", since=10, seen=20)
def is_inf(op: Op) -> Lowered:
    """Whether each element is infinite, of one sign or of either."""
    positive, negative = op.attr_int("detect_positive", 1), op.attr_int("detect_negative", 1)
    x = op.x(0)
    if positive and negative:
        return op.call(torch.isinf, x)
    if not positive and not negative:
        return op.call(torch.zeros_like, x, dtype=torch.bool)
    return op.call(torch.isposinf if positive else torch.isneginf, x)
