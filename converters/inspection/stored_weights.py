"""What the weights of a graph are: how many numbers, of which types, and how they are quantised.

1. A weight is a float tensor with at least one axis that a node reads; a scalar is a constant of a formula.
2. Integers that DequantizeLinear or an integer operator reads as weights count too: they stand for as many floats.
3. Running means and variances of BatchNormalization are counted apart; training does not change them by gradients.

Quantisation has three forms: QDQ (QuantizeLinear and DequantizeLinear beside float operators), QOperator (QLinearConv
and its kin compute on integers) and weights in blocks with a scale each.

Source: ONNX Runtime, "Quantize ONNX models"; ONNX, DequantizeLinear-21 (`block_size`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from ..files.element_types import FLOATS, INTEGERS, numpy_name_of
from ..graphs.graph_view import GraphView

__all__ = ["StoredWeights", "stored_weights"]

_Q_OPERATORS: Mapping[str, tuple[int, ...]] = {
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "QGemm": (3,),
    "QAttention": (1,),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (1,),
}
"""Operator -> the inputs that may be a stored integer weight; the last three are ONNX Runtime's own."""
_BLOCKS = {"MatMulNBits": 1, "GatherBlockQuantized": 0, "MatMulBnb4": 1}
"""ONNX Runtime's operators on weights in blocks, and the input that is the weight."""


@dataclass(frozen=True)
class StoredWeights:
    """Numbers and types of the weights."""

    parameters: int
    statistics: int
    precision: str
    """Element types, most elements first, such as "float32" or "int8/float32"."""
    quantised: str
    """How, and how many nodes; "" where nothing is."""


def stored_weights(view: GraphView) -> StoredWeights:
    """Count the weights of the main graph."""
    roles = _integer_weights(view)
    sizes: Counter[str] = Counter()
    for name, tensor in view.stored.items():
        is_weight = tensor.data_type in FLOATS or name in roles
        if is_weight and name in view.read_values and len(tensor.dims):
            sizes[numpy_name_of(tensor.data_type)] += math.prod(tensor.dims)
    statistics = _statistics(view)
    kinds = Counter(kind for node in view.proto.graph.node if (kind := _quantised_as(node)))
    listed = ", ".join(f"{kind} ({count} nodes)" for kind, count in kinds.most_common())
    precision = "/".join(name for name, _ in sizes.most_common()) or "no weights"
    return StoredWeights(sum(sizes.values()) - statistics, statistics, precision, listed)


def _statistics(view: GraphView) -> int:
    """Elements of running means and variances, each tensor counted once."""
    names = {
        name
        for node in view.nodes
        if node.op_type == "BatchNormalization"
        for name in node.input[3:5]
        if name in view.stored
    }
    return sum(math.prod(view.stored[name].dims) for name in names)


def _integer_weights(view: GraphView) -> frozenset[str]:
    """Stored integers that nodes read as weights, rule 2."""
    found: set[str] = set()
    for node in view.proto.graph.node:
        places = (0,) if node.op_type == "DequantizeLinear" else _Q_OPERATORS.get(node.op_type, ())
        if node.op_type in _BLOCKS:
            places = (_BLOCKS[node.op_type],)
        names = (view.origin(node.input[place]) for place in places if place < len(node.input))
        found.update(name for name in names if name in view.stored and view.stored[name].data_type in INTEGERS)
    return frozenset(found)


def _quantised_as(node: onnx.NodeProto) -> str:
    if node.op_type in _BLOCKS:
        return f"{node.op_type}, weights in blocks"
    if node.op_type in _Q_OPERATORS:
        return "QOperator"
    if node.op_type not in ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"):
        return ""
    in_blocks = any(entry.name == "block_size" and entry.i for entry in node.attribute)
    return "QDQ, weights in blocks" if in_blocks else "QDQ"
