"""Which nodes and which of their inputs and outputs may be 16-bit floats: from ONNX's own schemas, and from sense.

A type variable of an operator's schema is narrowed only if the schema allows the narrow type for it; the scales of
Resize, for one, are float32 by definition. Nodes are kept in float32 where narrowing would be wrong (shape
arithmetic, weights out of range) or is known to overflow (sums of squares and the like).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

__all__ = ["OVERFLOWING", "NodeTypes", "is_control_flow", "node_types"]

OVERFLOWING = frozenset(
    {
        "CumSum",
        "LpNormalization",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
"""Operators whose intermediate sums leave float16's range (65504) for ordinary activations."""

_SCHEMA_NAMES = {"float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}


@dataclass(frozen=True)
class NodeTypes:
    """Per input and output: whether the schema lets a float32 tensor there be narrow."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def is_control_flow(node: ir.Node) -> bool:
    """Whether the node runs subgraphs."""
    return any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in _attributes(node))


def node_types(node: ir.Node, opset: int, narrow: str) -> NodeTypes | None:
    """What of `node` may be `narrow` ("float16" or "bfloat16"); None for an operator without schema."""
    if is_control_flow(node):
        return NodeTypes((True,) * len(node.inputs), (True,) * len(node.outputs))
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    allowed = {
        constraint.type_param_str: _SCHEMA_NAMES[narrow] in constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }

    def may(formals: list[onnx.defs.OpSchema.FormalParameter], count: int) -> Iterator[bool]:
        for index in range(count):
            formal = formals[min(index, len(formals) - 1)]
            yield allowed.get(formal.type_str, False)

    return NodeTypes(
        tuple(may(list(schema.inputs), len(node.inputs))), tuple(may(list(schema.outputs), len(node.outputs)))
    )


def _attributes(node: ir.Node) -> list[ir.Attr]:
    return list(node.attributes.values())
