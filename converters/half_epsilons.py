"""Constants that 16 bits round to 0 where 0 means a division by zero, and the nodes that must stay wide for them.

`x / max(norm, 1e-12)` gives 0 for a row of zeros; in float16 the bound is 0, and 0 / 0 is NaN. So the node that applies
such a bound or adds such an epsilon stays in float32, and so does everything up to the division. Only chains that end
in a division are kept: elsewhere a vanished 1e-12 is an error of 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["nodes_guarding_divisions"]

_CARRIES = frozenset(
    {"Abs", "Cast", "Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "Max", "Mean", "Reshape", "Slice"}
    | {"Sqrt", "Squeeze", "Sum", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators whose output is as tiny as their input (or its root)."""

Vanishes = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""Which elements of a float32 array are not 0 and would be 0 in 16 bits."""


def nodes_guarding_divisions(model: ir.Model, vanishes: Vanishes) -> dict[ir.Node, str]:
    """The nodes that stay in float32 for the sake of a constant that would vanish, each with the reason."""
    found: dict[ir.Node, str] = {}
    for node in model.graph.all_nodes():
        if node.op_type == "Div" and _array(node.inputs[1]) is not None and vanishes(_of(node.inputs[1])).any():
            found[node] = "its divisor would be 0"
            continue
        if not _has_guard(node, vanishes):
            continue
        chain = _up_to_division(node.outputs[0], {}, huge=False)
        if chain:
            reason = "a constant that keeps a divisor from 0 would be 0"
            found.update(dict.fromkeys((node, *chain), reason))
    return found


def _has_guard(node: ir.Node, vanishes: Vanishes) -> bool:
    """Whether the node applies a lower bound, or adds an epsilon, that would vanish whole."""
    if node.op_type == "Clip":
        bound = node.attributes.get_float("min", None) if "min" in node.attributes else None
        candidates = [np.float32(bound)] if bound is not None else [_array(value) for value in node.inputs[1:2]]
    elif node.op_type in ("Max", "Add"):
        candidates = [_array(value) for value in node.inputs]
    else:
        return False
    arrays = [np.asarray(array) for array in candidates if array is not None]
    return any(array.size and bool((vanishes(array) & (array > 0)).all()) for array in arrays)


_Walked = dict[tuple[ir.Value, bool], set[ir.Node]]


def _up_to_division(value: ir.Value, walked: _Walked, *, huge: bool) -> set[ir.Node]:
    """Nodes from the readers of `value` to those that divide by it; empty where none does.

    Where the division is a reciprocal, its result is `huge`, and the product it goes into belongs to the chain.
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
    """The numbers of a float32 weight."""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    return np.asarray(value.const_value.numpy())


def _of(value: ir.Value | None) -> NDArray[Any]:
    array = _array(value)
    assert array is not None
    return array
