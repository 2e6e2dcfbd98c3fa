"""Range, CumSum, CumProd, OneHot, Trilu, EyeLike, ArgMax and ArgMin."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from ..exact.counting import accumulate, count_up, one_hot
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import torch_dtype

__all__: list[str] = []


def _scalar(op: Op, index: int) -> Any:
    """A tensor of one element as a Python number, or as the fx node that reads it."""
    array = op.constant(index)
    if array is not None and array.size == 1:
        return array.reshape(-1)[0].item()
    known = op.known(index)
    return known.items[0] if known is not None and len(known.items) == 1 else op.method("item", op.x(index))


@lowers("Range", since=11, seen=27)
def range_(op: Op) -> Lowered:
    """Numbers from start to limit in equal steps; `torch.arange` for steps of one from zero."""
    start, limit, delta = (_scalar(op, index) for index in (0, 1, 2))
    dtype = torch_dtype(op.dtype(0))
    is_size = isinstance(limit, fx.Node) and limit.target == "size"
    if start == 0 and delta == 1 and dtype == torch.int64 and (is_size or (isinstance(limit, int) and limit >= 0)):
        return op.call(torch.arange, limit, **op.builder.device())
    return op.call(count_up, start, limit, delta, dtype, **op.builder.device())


def _accumulate(op: Op, *, product: bool) -> fx.Node:
    exclusive, reverse = bool(op.attr_int("exclusive", 0)), bool(op.attr_int("reverse", 0))
    axis = _scalar(op, 1)
    if not exclusive and not reverse:
        # torch would convert small integers to int64
        dtype = None if op.is_float(0) else torch_dtype(op.dtype(0))
        options = {} if dtype is None else {"dtype": dtype}
        return op.call(torch.cumprod if product else torch.cumsum, op.x(0), axis, **options)
    return op.call(accumulate, op.x(0), axis, product, exclusive, reverse)


@lowers("CumSum", since=11, seen=14)
def cum_sum(op: Op) -> Lowered:
    """Running sum along an axis."""
    return _accumulate(op, product=False)


@lowers("CumProd", since=26, seen=26)
def cum_prod(op: Op) -> Lowered:
    """Running product along an axis."""
    return _accumulate(op, product=True)


@lowers("OneHot", since=9, seen=28)
def one_hot_(op: Op) -> Lowered:
    """A new axis with one value at the index and another value elsewhere."""
    return op.call(one_hot, op.x(0), op.call(int, _scalar(op, 1)), op.x(2), op.attr_int("axis", -1))


@lowers("Trilu", since=14, seen=14)
def trilu(op: Op) -> Lowered:
    """The upper or lower triangle, counted from a diagonal."""
    diagonal = _scalar(op, 1) if op.has(1) else 0
    return op.call(torch.triu if op.attr_int("upper", 1) else torch.tril, op.x(0), diagonal)


@lowers("EyeLike", since=9, seen=22)
def eye_like(op: Op) -> Lowered:
    """Ones on a diagonal of a matrix in the shape of the input, zeros elsewhere."""
    target = ir.DataType(op.attr_int("dtype")) if op.has_attribute("dtype") else op.dtype(0)
    dtype = torch_dtype(target)
    if dtype is None:
        raise op.refuse(f"torch has no element type for {target.name}")
    diagonal = op.attr_int("k", 0)
    ones = op.call(torch.ones_like, op.x(0), dtype=dtype)
    return op.call(torch.triu, op.call(torch.tril, ones, diagonal), diagonal)


@lowers("ArgMax", since=1, seen=13)
def arg_max(op: Op) -> Lowered:
    """The position of the largest entry along an axis."""
    return _position(op, torch.argmax)


@lowers("ArgMin", since=1, seen=13)
def arg_min(op: Op) -> Lowered:
    """The position of the smallest entry along an axis."""
    return _position(op, torch.argmin)


def _position(op: Op, function: Any) -> fx.Node:
    axis, keep = op.attr_int("axis", 0), bool(op.attr_int("keepdims", 1))
    if not op.attr_int("select_last_index", 0):
        return op.call(function, op.x(0), axis, keep)
    last = op.call(operator.sub, op.method("size", op.x(0), axis), 1)
    return op.call(operator.sub, last, op.call(function, op.call(torch.flip, op.x(0), [axis]), axis, keep))
