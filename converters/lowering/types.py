"""Element types: casts."""

from __future__ import annotations

import onnx_ir as ir

from .operation import Lowered, Op
from .registry import lowers
from .values import torch_dtype

__all__: list[str] = []

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


@lowers("Cast", since=6, seen=25)
def cast(op: Op) -> Lowered:
    """Convert the element type; numbers from shapes stay numbers between integer types."""
    target = ir.DataType(op.attr_int("to"))
    known = op.known(0)
    if known is not None and target in _INTEGERS:
        return known
    dtype = torch_dtype(target)
    if dtype is None:
        raise op.refuse(f"torch has no element type for {target.name}")
    return op.method("to", op.x(0), dtype)
