"""Lower a subgraph of a node: the body of a loop, a branch, the score function of FlexAttention."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..passes.constants.constant_folding import LITERAL_KEY, constant_tensor
from .operation import Op, RefusedError

__all__ = ["lower_copy", "make_constant", "refused_inside"]


def lower_copy(op: Op, graph: ir.Graph, inputs: Sequence[ir.Value], suffix: str) -> list[ir.Value]:
    """Lower a copy of `graph` that reads `inputs`; return the values of its outputs. `suffix` makes names unique."""
    copy = graph.clone(allow_outer_scope_values=True)
    if len(copy.inputs) != len(inputs):
        raise op.refuse(f"{len(inputs)} values for the {len(copy.inputs)} inputs of its body; re-export the model")
    for own, given in zip(list(copy.inputs), inputs, strict=True):
        own.replace_all_uses_with(given, replace_graph_outputs=True)
    for node in copy:
        for value in node.outputs:
            value.name = f"{value.name}_{suffix}" if value.name else value.name
        if node.op_type == "Constant":
            make_constant(node.outputs[0], constant_tensor(node))
        else:
            op.lower_node(node)
    return list(copy.outputs)


def make_constant(value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    """Make `value` a constant that holds `tensor`, and return it."""
    value.const_value, value.type = tensor, ir.TensorType(tensor.dtype)
    value.shape = ir.Shape(tensor.shape.numpy())
    value.meta[LITERAL_KEY] = True
    return value


def refused_inside(op: Op, value: ir.Value) -> RefusedError:
    """The refusal of a node whose subgraph did not give `value`: it names the first node that could not be lowered."""
    node = value.producer()
    while node is not None:
        missing = (v for v in node.inputs if v is not None and v.const_value is None and v not in op.environment)
        before = next((v.producer() for v in missing if v.producer() is not None), None)
        if before is None:
            break
        node = before
    if node is None:
        return op.refuse(f"value '{value.name}' inside it is computed nowhere; re-export the model")
    name = node.name or node.outputs[0].name or "?"
    return op.refuse(f"it needs node '{name}' ({node.op_type}), which cannot be converted for the reason given there")
