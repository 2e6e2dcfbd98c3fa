"""Casts to another dtype: Cast, CastLike."""

from __future__ import annotations

import onnx_ir as ir

from ..exact.quantisation import (
    cast_to_float8,
    cast_to_narrow_float,
    cast_to_narrow_integer,
    cast_to_power_of_two,
)
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import NARROW_FLOATS, NARROW_INTEGERS, torch_dtype

__all__: list[str] = []

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_FLOAT8 = (
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT8E5M2FNUZ,
)


@lowers("Cast", since=6, seen=25)
def cast(op: Op) -> Lowered:
    """Convert to another dtype; known numbers stay known between integer dtypes."""
    return _converted(op, ir.DataType(op.attr_int("to")))


@lowers("CastLike", since=15, seen=25)
def cast_like(op: Op) -> Lowered:
    """Convert to the dtype of the second input."""
    return _converted(op, op.dtype(1))


def _converted(op: Op, target: ir.DataType) -> Lowered:
    known = op.known(0)
    if known is not None and target in _INTEGERS:
        return known
    dtype = torch_dtype(target)
    if dtype is None:
        raise op.refuse(f"torch has no element type for {target.name}")
    if op.dtype(0) == target:
        return op.x(0)
    if target in NARROW_INTEGERS:
        return op.call(cast_to_narrow_integer, op.x(0), *NARROW_INTEGERS[target])
    if target in NARROW_FLOATS:
        return op.call(cast_to_narrow_float, op.x(0), *NARROW_FLOATS[target])
    saturate = bool(op.attr_int("saturate", 1))
    if target == ir.DataType.FLOAT8E8M0:
        return op.call(cast_to_power_of_two, op.x(0), op.attr_string("round_mode", "up"), saturate)
    if target in _FLOAT8:
        return op.call(cast_to_float8, op.x(0), dtype, saturate)
    return op.method("to", op.x(0), dtype)
