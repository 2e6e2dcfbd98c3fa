"""Recognise tensors that a graph makes up from shapes and single numbers: states of zeros, masks, counted positions.

They were written into the model's code, like a single number, so no training may change them, however many elements
they have and whatever reads them. A stored tensor of several numbers may be a weight, also where it holds integers.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

__all__ = ["GENERATED_KEY", "is_generated"]

GENERATED_KEY = "rtool.generated"
"""Key in `Value.meta` of a folded constant that the graph made up."""

_FROM_SIZES = frozenset(
    {"BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range"}
    | {"Shape", "Size"}
)
"""Operators whose inputs are sizes and bounds, or of which only the shape matters."""
_FIRST_IS_DATA = frozenset(
    {"CastLike", "CumSum", "Expand", "Pad", "Reshape", "Slice", "Squeeze", "Tile", "Trilu", "Unsqueeze"}
    | {
        f"Reduce{name}"
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    }
)
"""Operators whose other inputs say where and how far, not what."""


def is_generated(node: ir.Node, is_known: Callable[[ir.Value], bool] | None = None) -> bool:
    """Whether a node of constants, none of them a float initializer, computes from sizes and single numbers alone.

    `is_known` tells of further values that the graph made up.
    """
    if node.op_type == "Constant":
        return False
    if node.op_type in _FROM_SIZES:
        return True
    data = node.inputs[:1] if node.op_type in _FIRST_IS_DATA else node.inputs
    return bool(data) and all(
        value is None or _is_made_up(value) or (is_known is not None and is_known(value)) for value in data
    )


def _is_made_up(value: ir.Value) -> bool:
    is_number = value.const_value is not None and value.const_value.size == 1
    return is_number or bool(value.meta.get(GENERATED_KEY))
