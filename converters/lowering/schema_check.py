"""Checks one node against its operator's schema, so that lowering functions can trust what they read."""

from __future__ import annotations

from functools import lru_cache

import onnx
import onnx_ir as ir

__all__ = ["schema_problem"]


def schema_problem(node: ir.Node, opset: int) -> str | None:
    """What is wrong with the attributes, the element types and the number of inputs and outputs of `node`, or None.

    Attributes that only earlier revisions of the operator knew are left alone: exporters keep writing some that lost
    their meaning. One that none ever knew is a damaged name, and the value it should have stated is lost.
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
    stated = {name for name in node.attributes if not name.startswith("__")}  # ONNX leaves such names to tools
    unknown = sorted(stated - _attributes_ever()[node.op_type, domain])
    if unknown:
        return f"no revision of it has an attribute {unknown[0]!r}; the file is damaged or not ONNX, export it again"
    return _type_problem(node, schema)


def _type_problem(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    """The first input whose element type the operator does not take."""
    allowed = _input_types(schema.name, schema.since_version, schema.domain)
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
            continue
        name, types = allowed[min(index, len(allowed) - 1)]
        if f"tensor({value.dtype.name.lower()})" not in types:
            kinds = ", ".join(sorted(kind.removeprefix("tensor(").rstrip(")") for kind in types))
            found = value.dtype.name.lower()
            return f"input {index} ({name}) is {found}, expected {kinds}; the file is damaged, export it again"
    return None


@lru_cache(maxsize=1024)
def _input_types(operator: str, since: int, domain: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """Name and types of every input of one revision of an operator."""
    return tuple((i.name, frozenset(i.types)) for i in onnx.defs.get_schema(operator, since, domain).inputs)


@lru_cache(maxsize=1)
def _attributes_ever() -> dict[tuple[str, str], set[str]]:
    """All attributes that any revision of an operator has or had, by operator and domain."""
    known: dict[tuple[str, str], set[str]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        known.setdefault((schema.name, schema.domain), set()).update(schema.attributes)
    return known


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
