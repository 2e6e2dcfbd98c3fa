"""Check a node against its operator's schema, so that lowering functions can rely on what they read."""

from __future__ import annotations

from functools import lru_cache

import onnx
import onnx_ir as ir

__all__ = ["schema_problem"]


def schema_problem(node: ir.Node, opset: int) -> str | None:
    """What is wrong with the attributes, dtypes or number of inputs and outputs of `node`; None if it is valid.

    Attributes that only earlier revisions of the operator had are ignored: exporters still write some that have no
    meaning any more. An attribute that no revision had is a damaged name, whose value is lost.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return f"expects {_range(schema.min_input, schema.max_input)} inputs, got {len(node.inputs)}; re-export it"
    if not schema.min_output <= len(node.outputs) <= schema.max_output:
        return f"gives {_range(schema.min_output, schema.max_output)} outputs, got {len(node.outputs)}; re-export it"
    for name, definition in schema.attributes.items():
        attribute = node.attributes.get(name)
        if attribute is None:
            if definition.required:
                return f"required attribute {name} is missing; re-export the model"
            continue
        expected = ir.AttributeType(definition.type.value)  # type: ignore[attr-defined]
        if not attribute.is_ref() and attribute.type != expected:
            return f"attribute {name} is {attribute.type.name}, expected {expected.name}; re-export the model"
    stated = {name for name in node.attributes if not name.startswith("__")}  # ONNX leaves such names to tools
    unknown = sorted(stated - _attributes_ever()[node.op_type, domain])
    if unknown:
        return f"no revision of it has an attribute {unknown[0]!r}; the file is damaged or not ONNX, re-export it"
    return _type_problem(node, schema)


def _type_problem(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    """The first input whose dtype the operator does not accept, in words; None if there is none."""
    allowed = _input_types(schema.name, schema.since_version, schema.domain)
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
            continue
        name, types = allowed[min(index, len(allowed) - 1)]
        if f"tensor({value.dtype.name.lower()})" not in types:
            kinds = ", ".join(sorted(kind.removeprefix("tensor(").rstrip(")") for kind in types))
            found = value.dtype.name.lower()
            return f"input {index} ({name}) is {found}, expected {kinds}; the file is damaged, re-export it"
    return None


@lru_cache(maxsize=1024)
def _input_types(operator: str, since: int, domain: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """Name and accepted types of every input of one revision of an operator."""
    return tuple((i.name, frozenset(i.types)) for i in onnx.defs.get_schema(operator, since, domain).inputs)


@lru_cache(maxsize=1)
def _attributes_ever() -> dict[tuple[str, str], set[str]]:
    """(operator, domain) -> names of the attributes that any of its revisions has."""
    known: dict[tuple[str, str], set[str]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        known.setdefault((schema.name, schema.domain), set()).update(schema.attributes)
    return known


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
