"""The rules that keep nodes in float32 when a model is converted to fp16 or bf16.

A node stays in float32 when

1. its operator has no schema (custom domains);
2. its operator is in `OVERFLOWING`: sums, norms and products that exceed float16's range;
3. it reads or writes sequences;
4. one of its weights, or the value of a ConstantOfShape, exceeds the range of the dtype (a bound of Clip may);
5. it computes with shapes and constants only, because 2049 / 1024 is 2 in float16;
6. an epsilon that prevents a division by zero would underflow to 0, see `half_epsilons`;
7. the caller names it, or the control-flow node whose subgraph it is in.

Any other node is converted. Softmax, LayerNormalization and pooling are converted, because runtimes subtract the
maximum and sum in float32; `half_search` returns them to float32 where a model needs that. Within a converted node,
inputs and outputs whose schema does not allow the dtype stay float32 (the scales of Resize). Rules 1,
2 and 5 are in this file; `half` applies all rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

__all__ = ["OVERFLOWING", "NodeTypes", "data_values", "is_control_flow", "node_types", "subgraphs_of"]

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
"""Operators whose intermediate sums exceed float16's range (65504) on ordinary activations; they stay in float32."""

_SCHEMA_NAMES = {"float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}


@dataclass(frozen=True)
class NodeTypes:
    """Per input and per output of a node: whether the schema allows the 16-bit dtype instead of float32."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def is_control_flow(node: ir.Node) -> bool:
    """Whether the node runs subgraphs."""
    return any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in _attributes(node))


def subgraphs_of(node: ir.Node) -> list[ir.Graph]:
    """The subgraphs that a node runs, without those nested inside them."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def data_values(model: ir.Model) -> set[ir.Value]:
    """Values that depend on the contents of the inputs, not only on shapes and constants (rule 5)."""
    graphs = (model.graph, *model.graph.subgraphs())
    data = {value for graph in graphs for value in graph.inputs if not value.is_initializer()}
    for node in model.graph.all_nodes():
        if node.op_type in ("Shape", "Size"):
            continue
        if is_control_flow(node) or any(value in data for value in node.inputs if value is not None):
            data.update(node.outputs)
    return data


def node_types(node: ir.Node, opset: int, dtype: str) -> NodeTypes | None:
    """Which inputs and outputs of `node` may be `dtype` ("float16" or "bfloat16"); None without a schema."""
    if is_control_flow(node):
        return NodeTypes((True,) * len(node.inputs), (True,) * len(node.outputs))
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    allowed = {
        constraint.type_param_str: _SCHEMA_NAMES[dtype] in constraint.allowed_type_strs
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
