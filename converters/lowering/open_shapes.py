"""Shapes that onnx's inference leaves unknown, though the rank is certain: some sizes are only known at run time.

Given a shape of which one number is unknown, onnx infers nothing at all, or only the rank; the rank is the count of the
numbers, and those that are known are sizes. Resize, Pad, Tile and Slice keep the rank of their input.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .values import Dim, Integers, dims_of, symbol_of

__all__ = ["finer_shape", "is_settled", "open_shape"]

Numbers = Callable[[ir.Value], Integers | None]
"""The numbers of a value, as far as they are known."""

_SAME_RANK = frozenset({"Pad", "Resize", "Slice", "Tile", "Upsample"})
_SAME_SHAPE = frozenset({"LayerNormalization", "RMSNormalization"})
"""They stand for fused patterns in files whose opset does not have them, so that onnx infers nothing."""
_SHAPE_INPUT = {"ConstantOfShape": 0, "Reshape": 1, "Resize": 3}
"""Operator -> its input that states the shape of the output."""
_MADE_UP = "unk__"
"""How onnx's inference begins the name of a size of which it knows nothing."""


def is_settled(shape: ir.Shape | None) -> bool:
    """Whether every size is a number or has a name of the file."""
    return shape is not None and not any(_is_open(dim) for dim in _dims(shape))


def finer_shape(first: ir.Shape | None, second: ir.Shape | None) -> ir.Shape | None:
    """What two shapes of one value say together: sizes before names, names before nothing, else as in `first`."""
    if first is None or second is None or len(first) != len(second):
        return second if first is None else first
    return ir.Shape([_finer(*dims) for dims in zip(_dims(first), _dims(second), strict=True)])


def _finer(one: Dim, other: Dim) -> Dim:
    if isinstance(one, int) or isinstance(other, int):
        return one if isinstance(one, int) else other
    if _is_open(one) and not _is_open(other):
        return other
    return other if one is None else one


def _is_open(dim: Dim) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(_MADE_UP))


def _dims(shape: ir.Shape) -> list[Dim]:
    return [dim if isinstance(dim, int) else dim.value for dim in shape]


def open_shape(node: ir.Node, numbers: Numbers) -> ir.Shape | None:
    """The shape of the first output of `node`, sizes that are not known left open; None where the rank is not known."""
    stated = _stated(node, numbers)
    if stated is None and node.op_type in _SAME_RANK:
        value = node.inputs[0]
        given = None if value is None else dims_of(value)
        stated = None if given is None else [None] * len(given)
    if node.op_type in _SAME_SHAPE and node.inputs[0] is not None:
        given = dims_of(node.inputs[0])
        stated = None if given is None else list(given)
    return None if stated is None else ir.Shape(stated)


def _stated(node: ir.Node, numbers: Numbers) -> list[Dim] | None:
    """What the input that states the shape says."""
    index = _SHAPE_INPUT.get(node.op_type)
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    if value is None:
        return None
    known = numbers(value)
    if known is None:
        length = dims_of(value)
        return [None] * length[0] if length is not None and len(length) == 1 and isinstance(length[0], int) else None
    sizes: list[Dim] = [symbol_of(item) for item in known.items]
    if node.op_type != "Reshape":
        return sizes
    given = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    keeps_zero = "allowzero" in node.attributes and node.attributes["allowzero"].as_int() == 1
    return [_reshaped(size, place, given, keeps_zero=keeps_zero) for place, size in enumerate(sizes)]


def _reshaped(size: Dim, place: int, given: tuple[Dim, ...] | None, *, keeps_zero: bool) -> Dim:
    if size == -1:
        return None
    if size == 0 and not keeps_zero:
        return given[place] if given is not None and place < len(given) else None
    return size
