"""Recognise the If that TorchScript writes for `x.squeeze(axis)`, where it does not know the size of the axis.

    If (Equal(Gather(Shape(x), axis), 1)):  Squeeze(x, axis)   else:  x

`torch.squeeze` does the same, but then the rank of the result is open. Often the size can be followed back to an Expand
or a fixed shape through operators that keep the axis, and one branch remains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ..values import Integers

__all__ = ["size_of", "squeezed_axis"]

_SAME_SHAPE = frozenset({"Cast", "Clip", "Dropout", "Identity", "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh"})
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})
_DEPTH = 20
"""Operators that a size is followed back through."""


def squeezed_axis(condition: ir.Value, then: ir.Graph, other: ir.Graph) -> tuple[ir.Value, int] | None:
    """The value and the axis of the `squeeze` that an If stands for; None for any other If."""
    squeeze, equal = then.outputs[0].producer(), condition.producer()
    if squeeze is None or squeeze.op_type != "Squeeze" or equal is None or equal.op_type != "Equal":
        return None
    value, kept, axes = squeeze.inputs[0], other.outputs[0], squeeze.attributes.get("axes")
    alias = kept.producer()
    if kept is not value and alias is not None and alias.op_type == "Identity" and alias.inputs[0] is not None:
        kept = alias.inputs[0]
    axis = (
        list(axes.as_ints()) if axes is not None else _numbers(squeeze.inputs[1] if len(squeeze.inputs) > 1 else None)
    )
    if value is None or kept is not value or axis is None or len(axis) != 1:
        return None
    numbers = [_numbers(entry) for entry in equal.inputs]
    gathers = [entry.producer() for entry, known in zip(equal.inputs, numbers, strict=True) if entry and known is None]
    if [1] not in numbers or len(gathers) != 1 or gathers[0] is None or gathers[0].op_type != "Gather":
        return None
    source, places = gathers[0].inputs[0], _numbers(gathers[0].inputs[1])
    shape = None if source is None else source.producer()
    whole = shape is not None and shape.op_type == "Shape" and not shape.attributes and shape.inputs[0] is value
    return (value, axis[0]) if whole and places == axis else None


def size_of(value: ir.Value, axis: int, environment: Mapping[ir.Value, Any], depth: int = _DEPTH) -> int | None:
    """The size of an axis of `value` as far as the graph fixes it; None where it is known only at run time.

    `environment` has the numbers that were computed from shapes.
    """
    rank = None if value.shape is None else len(value.shape)
    if rank is None or not -rank <= axis < rank:
        return None
    assert value.shape is not None
    stated, axis, node = value.shape[axis], axis % rank, value.producer()
    if isinstance(stated, int):
        return stated
    if node is None or not depth:
        return None
    if node.op_type in _SAME_SHAPE:
        return _of_input(node, 0, axis - rank, environment, depth)
    if node.op_type in _ELEMENTWISE:
        sizes = [_of_input(node, index, axis - rank, environment, depth) for index in (0, 1)]
        if None in sizes:
            return next((size for size in sizes if size is not None and size != 1), None)
        return max(size for size in sizes if size is not None)
    if node.op_type == "MatMul" and axis >= rank - 2:
        return _of_input(node, axis - (rank - 2), axis - rank, environment, depth)
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        places = list(order.as_ints()) if order is not None else list(reversed(range(rank)))
        return _of_input(node, 0, places[axis] - rank, environment, depth)
    if node.op_type == "Expand":
        return _expanded(node, axis - rank, environment, depth)
    return None


def _of_input(node: ir.Node, index: int, from_end: int, environment: Mapping[ir.Value, Any], depth: int) -> int | None:
    """The size of an axis of an input, counted from the end; 1 where the input has fewer axes."""
    value = node.inputs[index]
    if value is None or value.shape is None:
        return None
    return 1 if -from_end > len(value.shape) else size_of(value, from_end, environment, depth - 1)


def _expanded(node: ir.Node, from_end: int, environment: Mapping[ir.Value, Any], depth: int) -> int | None:
    own = _of_input(node, 0, from_end, environment, depth)
    target = None if node.inputs[1] is None else environment.get(node.inputs[1])
    numbers = list(target.items) if isinstance(target, Integers) else _numbers(node.inputs[1])
    if own is None or own != 1 or numbers is None:
        return own if own != 1 else None
    wanted = 1 if -from_end > len(numbers) else numbers[from_end]
    return wanted if isinstance(wanted, int) and wanted > 0 else None


def _numbers(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in np.asarray(tensor.numpy()).reshape(-1)]
