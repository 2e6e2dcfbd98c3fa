"""Find epsilons that underflow to 0 in 16 bits and would cause a division by zero; their nodes stay in float32.

`x / max(norm, 1e-12)` gives 0 for a row of zeros; in float16 the bound is 0, and 0 / 0 is NaN. These stay in float32:

1. a Div whose constant divisor underflows to 0;
2. a node that applies such a bound (Clip, Max, Min), adds such an epsilon (Add, Sub) or selects it (Where, together
   with the comparison that is its condition), if its result reaches a division, reciprocal or logarithm;
3. all nodes from there up to that division; after a reciprocal, up to the product that it enters.

Where no division follows, an underflowed 1e-12 is an error of 1e-12, so the nodes are converted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["nodes_guarding_divisions"]

_CARRIES = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "Max", "Mean", "Min", "Neg"}
    | {"Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where"}
)
"""Operators whose output may be as small as their input (or its square root)."""

_GUARDS = {"Add": 0, "Max": 1, "Min": -1, "Sub": 0, "Where": 0}
"""Operator that keeps a value away from 0 by a constant -> sign of that constant; 0 for either sign."""

Vanishes = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""A function that marks the elements of a float32 array that underflow to 0 in 16 bits."""


def nodes_guarding_divisions(model: ir.Model, vanishes: Vanishes) -> dict[ir.Node, str]:
    """The nodes that must stay in float32 because a constant would underflow to 0 -> the reason."""
    found: dict[ir.Node, str] = {}
    for node in model.graph.all_nodes():
        if node.op_type == "Div" and _array(node.inputs[1]) is not None and vanishes(_of(node.inputs[1])).any():
            found[node] = "its divisor would underflow to 0"
            continue
        if not _has_guard(node, vanishes):
            continue
        chain = _up_to_division(node.outputs[0], {}, huge=False)
        if chain:
            reason = "an epsilon that keeps a divisor from 0 would underflow to 0"
            found.update(dict.fromkeys((node, *_comparison(node), *chain), reason))
    return found


def _has_guard(node: ir.Node, vanishes: Vanishes) -> bool:
    """Whether the node bounds, adds or selects a constant of which every element would underflow to 0."""
    if node.op_type == "Clip":
        bounds = [(1, _bound(node, 1, "min")), (-1, _bound(node, 2, "max"))]
    elif node.op_type in _GUARDS:
        bounds = [(_GUARDS[node.op_type], _array(value)) for value in node.inputs]
    else:
        return False
    return any(
        array is not None and array.size and bool((vanishes(array) & (sign * array >= 0)).all())
        for sign, array in bounds
    )


def _bound(node: ir.Node, index: int, attribute: str) -> NDArray[Any] | None:
    """A bound of Clip: an attribute up to opset 10, an input from opset 11."""
    if attribute in node.attributes:
        return np.asarray(node.attributes[attribute].as_float(), np.float32)
    return _array(node.inputs[index]) if index < len(node.inputs) else None


def _comparison(node: ir.Node) -> list[ir.Node]:
    """The node that computes the condition of a Where; in 16 bits, where more values are 0, it would differ."""
    condition = node.inputs[0] if node.op_type == "Where" else None
    producer = None if condition is None else condition.producer()
    return [] if producer is None else [producer]


_Walked = dict[tuple[ir.Value, bool], set[ir.Node]]


def _up_to_division(value: ir.Value, walked: _Walked, *, huge: bool) -> set[ir.Node]:
    """All nodes from the readers of `value` to those that divide by it; empty where none does.

    A reciprocal of a tiny value is `huge`; its chain goes on to the product that it enters.
    """
    if (value, huge) in walked:
        return walked[value, huge]
    found = walked[value, huge] = set()
    for node, index in value.uses():
        result = node.outputs[0]
        if huge and node.op_type == "Mul":
            found.add(node)
        elif node.op_type in _CARRIES or (node.op_type == "Mul" and not huge):
            found |= _with(node, _up_to_division(result, walked, huge=huge))
        elif node.op_type == "Pow" and index == 0 and not huge:
            exponent = _array(node.inputs[1])
            inverts = exponent is not None and bool((exponent < 0).all())
            chain = _up_to_division(result, walked, huge=inverts)
            found |= {node, *chain} if inverts else _with(node, chain)
        elif node.op_type == "Reciprocal" or (node.op_type == "Div" and index == 1):
            found.add(node)
            if node.op_type == "Reciprocal" or _array(node.inputs[0]) is not None:
                found |= _up_to_division(result, walked, huge=True)
        elif node.op_type == "Log" and not huge:
            found.add(node)
    return found


def _with(node: ir.Node, chain: set[ir.Node]) -> set[ir.Node]:
    return {node, *chain} if chain else set()


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    """The values of a float32 weight; None for any other value."""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    return np.asarray(value.const_value.numpy())


def _of(value: ir.Value | None) -> NDArray[Any]:
    array = _array(value)
    assert array is not None
    return array
