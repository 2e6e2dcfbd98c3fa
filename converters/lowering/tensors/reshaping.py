"""Shape, Size, Reshape, Flatten, Squeeze, Unsqueeze, Concat, Transpose, Expand, ConstantOfShape.

A batch axis that a Reshape does not change is never written as a number, so that the batch stays dynamic.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from ..exact.axes import expand_both_ways, reshape_to, squeeze_axes, unsqueeze_axes
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import Dim, Integers, symbol_of, torch_dtype

__all__: list[str] = []


@lowers("Shape", since=1, seen=25)
def shape(op: Op) -> Lowered:
    """The sizes of the axes, as numbers; those that are not fixed are read at run time."""
    rank = op.rank(0)
    start, end = op.attr_int("start", 0), op.attr_int("end", rank)
    return Integers(tuple(op.size(0, axis) for axis in range(rank)[slice(start, end)]))


@lowers("Size", since=1, seen=25)
def size(op: Op) -> Lowered:
    """The number of elements."""
    dims = op.shape(0)
    if dims is not None and all(isinstance(dim, int) for dim in dims):
        total = 1
        for dim in dims:
            total *= int(dim or 0)
        return Integers((total,), scalar=True)
    return Integers((op.method("numel", op.x(0)),), scalar=True)


@lowers("Reshape", since=5, seen=25)
def reshape(op: Op) -> Lowered:
    """`torch.flatten` where that is the same, else `torch.reshape`; numbers from shapes stay numbers."""
    known = op.known(0)
    target = op.integers(1)
    if known is not None and len(known.items) == 1 and target in ([], [1], [-1]):
        return Integers(known.items, scalar=not target)
    allow_zero = bool(op.attr_int("allowzero", 0))
    if isinstance(target, fx.Node) or any(_is_read_from_tensor(item) for item in target):
        return op.call(reshape_to, op.x(0), target, allow_zero)
    return _reshaped(op, target, allow_zero)


def _is_read_from_tensor(item: int | fx.Node) -> bool:
    """Whether a number is data at run time, so that it may be 0, which means "keep the size"."""
    return isinstance(item, fx.Node) and (item.target is operator.getitem or item.target == "tolist")


@lowers("Reshape", since=1, until=5, seen=1)
def reshape_of_old_opsets(op: Op) -> Lowered:
    """Reshape before opset 5: the shape is an attribute."""
    return _reshaped(op, list(op.attr_ints("shape", []) or []), False)


def _reshaped(op: Op, target: list[int | fx.Node], allow_zero: bool) -> fx.Node:
    dims = op.shape(0)
    wanted: list[Dim] = [_wanted(dims, axis, item, allow_zero) for axis, item in enumerate(target)]
    if dims is not None and wanted.count(-1) == 1:
        wanted[wanted.index(-1)] = _inferred(dims, [dim for dim in wanted if dim != -1])
    op.set_output_shape(wanted)
    if dims is not None and _is_flatten(dims, wanted):
        return op.call(torch.flatten, op.x(0), len(target) - 1)
    sizes: list[Any] = list(target)
    for axis, item in enumerate(target):
        if isinstance(item, int) and item == 0 and not allow_zero:
            sizes[axis] = op.size(0, axis)
    if dims and wanted and len(dims) > 1 and dims[0] is not None and wanted[0] == dims[0]:
        # The batch does not change; it is not written as a number, so that it stays dynamic.
        sizes[0] = -1 if -1 not in sizes[1:] else op.method("size", op.x(0), 0)
    return op.call(torch.reshape, op.x(0), sizes)


def _wanted(dims: tuple[Dim, ...] | None, axis: int, item: int | fx.Node, allow_zero: bool) -> Dim:
    if isinstance(item, int) and item == 0 and not allow_zero:
        return dims[axis] if dims is not None and axis < len(dims) else None
    return symbol_of(item)


def _inferred(dims: tuple[Dim, ...], others: list[Dim]) -> Dim:
    """The size that -1 stands for: the size of the input divided by the other sizes; None where that is unknown."""
    left = list(dims)
    product = 1
    for dim in others:
        if isinstance(dim, int):
            product *= dim
        elif dim is not None and dim in left:
            left.remove(dim)
        else:
            return None
    symbols = [dim for dim in left if not isinstance(dim, int)]
    total = math.prod(dim for dim in left if isinstance(dim, int))
    if not symbols:
        return total // product if product and total % product == 0 else None
    return symbols[0] if len(symbols) == 1 and total == product and product else None


def _is_flatten(dims: tuple[Dim, ...], wanted: list[Dim]) -> bool:
    """Whether the leading axes do not change and all others are joined into the last."""
    leading = len(wanted) - 1
    if leading < 1 or len(dims) <= leading or any(a is None or a != b for a, b in zip(dims, wanted[:-1], strict=False)):
        return False
    rest = dims[leading:]
    if any(not isinstance(dim, int) for dim in rest):
        return wanted[-1] is None and all(dim != 0 for dim in dims)
    return wanted[-1] == math.prod(dim for dim in rest if isinstance(dim, int))


@lowers("Flatten", since=1, seen=25)
def flatten(op: Op) -> Lowered:
    """A matrix: the axes before `axis` joined, and those from it on joined."""
    rank = op.rank(0)
    axis = op.attr_int("axis", 1)
    axis = axis + rank if axis < 0 else axis
    x = op.x(0)
    if axis == 1 and rank > 1:
        return op.call(torch.flatten, x, 1)
    if axis == 0 or rank == 0:
        return op.call(torch.reshape, x, [1, -1])
    if axis == rank:
        return op.call(torch.reshape, x, [-1, 1])
    return op.call(torch.flatten, op.call(torch.flatten, x, axis), 0, axis - 1)


@lowers("Squeeze", since=1, seen=25)
def squeeze(op: Op) -> Lowered:
    """Remove axes of size one."""
    known = op.known(0)
    if known is not None:
        return Integers(known.items, scalar=True)
    axes: Any = op.integers(1) if op.has(1) else op.attr_ints("axes")
    if axes is None:
        dims = op.shape(0)
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            raise op.refuse("no axes given and a dimension is not fixed; re-export with axes")
        axes = [axis for axis, dim in enumerate(dims) if dim == 1]
    if not isinstance(axes, list) or not all(isinstance(axis, int) for axis in axes):
        return op.call(squeeze_axes, op.x(0), axes)
    return op.call(torch.squeeze, op.x(0), axes)


@lowers("Unsqueeze", since=1, seen=25)
def unsqueeze(op: Op) -> Lowered:
    """Insert axes of size one."""
    known = op.known(0)
    axes: Any = op.integers(1) if op.has(1) else op.attr_ints("axes")
    if not isinstance(axes, list) or not all(isinstance(axis, int) for axis in axes):
        return op.call(unsqueeze_axes, op.x(0), axes)
    if known is not None and known.scalar and len(axes) == 1:
        return Integers(known.items)
    x = op.x(0)
    rank = op.rank(0) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = op.call(torch.unsqueeze, x, axis)
    return x


@lowers("Concat", since=4, seen=13)
def concat(op: Op) -> Lowered:
    """Join tensors along an axis; numbers from shapes stay numbers."""
    parts = [op.known(index) for index in range(op.count)]
    if all(part is not None and not part.scalar for part in parts):
        return Integers(tuple(item for part in parts if part is not None for item in part.items))
    return op.call(torch.cat, [op.x(index) for index in range(op.count)], op.attr_int("axis"))


@lowers("Transpose", since=1, seen=25)
def transpose(op: Op) -> Lowered:
    """Reorder axes; without `perm` reverse them."""
    axes = op.attr_ints("perm") or list(reversed(range(op.rank(0))))
    return op.call(torch.permute, op.x(0), axes)


@lowers("Expand", since=8, seen=13)
def expand(op: Op) -> Lowered:
    """Broadcast with a shape, in both directions: a 1 in the shape means the size of the input."""
    target = op.integers(1)
    dims = op.shape(0)
    if not isinstance(target, list) or dims is None:
        return op.call(expand_both_ways, op.x(0), target)
    added = max(0, len(target) - len(dims))
    wanted: list[int | fx.Node] = [*([1] * (len(dims) - len(target))), *target]
    sizes: list[Any] = []
    for axis, item in enumerate(wanted):
        dim = dims[axis - added] if axis >= added else 1
        if axis >= added and (item == 1 or (dim is not None and dim == symbol_of(item))):
            sizes.append(-1)
        elif dim == 1:
            sizes.append(item)
        else:
            return op.call(expand_both_ways, op.x(0), target)
    return op.method("expand", op.x(0), sizes)


@lowers("ConstantOfShape", since=9, seen=25)
def constant_of_shape(op: Op) -> Lowered:
    """A tensor with the same value everywhere."""
    tensor = op.raw_attribute("value")
    if tensor is None:
        return op.call(torch.full, op.integers(0), 0.0, dtype=torch.float32, **op.builder.device())
    dtype = torch_dtype(tensor.dtype)
    if dtype is None:
        raise op.refuse(f"torch has no element type for {tensor.dtype.name}")
    return op.call(torch.full, op.integers(0), tensor.numpy().reshape(-1)[0].item(), dtype=dtype, **op.builder.device())
