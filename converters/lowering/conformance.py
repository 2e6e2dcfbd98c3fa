"""Checks one node against its operator's schema, so that lowering functions can trust what they read."""

from __future__ import annotations

import onnx
import onnx_ir as ir

__all__ = ["schema_problem"]


def schema_problem(node: ir.Node, opset: int) -> str | None:
    """What is wrong with the attributes and the number of inputs and outputs of `node`, or None.

    Attributes the schema does not know are left alone: old exporters keep writing some that lost their meaning.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return f"takes {_range(schema.min_input, schema.max_input)} inputs, got {len(node.inputs)}; export it again"
    if not schema.min_output <= len(node.outputs) <= schema.max_output:
        return f"gives {_range(schema.min_output, schema.max_output)} outputs, got {len(node.outputs)}; export it again"
    for name, definition in schema.attributes.items():
        attribute = node.attributes.get(name)
        if attribute is None:
            if definition.required:
                return f"required attribute {name} is missing; export the model again"
            continue
        expected = ir.AttributeType(definition.type.value)  # type: ignore[attr-defined]
        if not attribute.is_ref() and attribute.type != expected:
            return f"attribute {name} is {attribute.type.name}, expected {expected.name}; export the model again"
    return None


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
