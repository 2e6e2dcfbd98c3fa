"""The grammar of an exported program's JSON: which keys each part may have, and what each value may be.

A value that passes is returned rebuilt, so that what torch reads later is what was checked here. Keys that newer
versions of torch add are left out, as torch leaves them out itself; source positions (`stack_trace`, `from_node`,
`source_fn_stack`, which torch resolves by attribute look-ups) and free `custom` data are left out too.

Source: torch/_export/serde/schema.py, version 8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ....errors import InputError
from .expressions import TextError, check_expression, check_guard, check_tree, is_identifier
from .operators import is_allowed_target

__all__ = ["PAYLOADS", "PROGRAM", "Check", "SchemaError", "read_json"]

Check = Callable[[Any, str], Any]
"""Takes a value and its place, returns the value rebuilt; raises SchemaError."""

_FULL_NAME = re.compile(r"(?!__)[\w\-]+(\.(?!__)[\w\-]+)*", re.ASCII)
_METADATA = re.compile(r"[\w .,;:()\[\]<>@'*/\-]{0,20000}", re.ASCII)
_RANGE_KEY = re.compile(r"[A-Za-z0-9_ +*/()\-,]{1,300}")
_TEXT = re.compile(r"[\x20-\x7e\n\t]{0,2000}")
_UNBACKED = re.compile(r"(u|zuf)(\d+)")
_MOST_UNBACKED = 10_000
_DTYPES = frozenset((*range(1, 14), *range(28, 36)))


class SchemaError(ValueError):
    """A value that the grammar does not allow; says where it is."""


def read_json(path: object, name: str, content: bytes) -> Any:
    """Parse a JSON record: no key twice, no number beyond 64 bits, no NaN.

    Raises:
        InputError: it is not that.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("a key is there twice")
        return found

    def integer(text: str) -> int:
        if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
            raise ValueError(f"the number {text[:30]} is beyond 64 bits")
        return int(text)

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: record {name!r} is not JSON as torch writes it ({error})") from error


def _leaf(what: str, good: Callable[[Any], bool]) -> Check:
    def check(value: Any, place: str) -> Any:
        if not good(value):
            raise SchemaError(f"{place}: expected {what}, got {str(value)[:100]!r}")
        return value

    return check


def _text(check: Callable[[object], str]) -> Check:
    def checked(value: Any, place: str) -> Any:
        try:
            return check(value)
        except TextError as error:
            raise SchemaError(f"{place}: {error}") from error

    return checked


def _optional(check: Check) -> Check:
    return lambda value, place: None if value is None else check(value, place)


def _list(check: Check) -> Check:
    def checked(value: Any, place: str) -> Any:
        if not isinstance(value, list):
            raise SchemaError(f"{place}: expected a list, got {str(value)[:100]!r}")
        return [check(item, f"{place}[{index}]") for index, item in enumerate(value)]

    return checked


def _dictionary(key: Check, check: Check) -> Check:
    def checked(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise SchemaError(f"{place}: expected an object, got {str(value)[:100]!r}")
        return {key(name, f"{place} key"): check(item, f"{place}[{name[:60]!r}]") for name, item in value.items()}

    return checked


def _struct(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def checked(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise SchemaError(f"{place}: expected an object, got {str(value)[:100]!r}")
        missing = [name for name in required if name not in value]
        if missing:
            raise SchemaError(f"{place}: {', '.join(missing)} is missing")
        fields = {**required, **(optional or {})}
        return {name: check(value[name], f"{place}.{name}") for name, check in fields.items() if name in value}

    return checked


def _union(kinds: Callable[[], Mapping[str, Check]]) -> Check:
    def checked(value: Any, place: str) -> Any:
        if not isinstance(value, dict) or len(value) != 1:
            raise SchemaError(f"{place}: expected one of several kinds, got {str(value)[:100]!r}")
        kind, content = next(iter(value.items()))
        known = kinds()
        if kind not in known:
            raise SchemaError(f"{place}: {kind[:60]!r} is not read; a program holds tensors, numbers and texts only")
        return {kind: known[kind](content, f"{place}.{kind}")}

    return checked


def _drop(empty: Any) -> Check:
    return lambda _value, _place: empty


def _metadata(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise SchemaError(f"{place}: expected an object, got {str(value)[:100]!r}")
    kept = {name: value[name] for name in ("nn_module_stack", "torch_fn") if name in value}
    return {name: text for name, text in kept.items() if isinstance(text, str) and _METADATA.fullmatch(text)}


def _range_key(value: Any, place: str) -> str:
    unbacked = _UNBACKED.match(value)
    if not _RANGE_KEY.fullmatch(value) or (unbacked and int(unbacked[2][:9]) > _MOST_UNBACKED):
        raise SchemaError(f"{place}: {value[:60]!r} names no size as torch names them")
    return str(value)


_INT = _leaf("an integer", lambda value: type(value) is int)
_BOOL = _leaf("true or false", lambda value: type(value) is bool)
_FLOAT = _leaf("a number", lambda value: type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN"))
_STRING = _leaf("a short text", lambda value: isinstance(value, str) and _TEXT.fullmatch(value) is not None)
_NAME = _leaf("a name", is_identifier)
_EMPTY_OR_NAME = _leaf("a name", lambda value: value == "" or is_identifier(value))
_FULL = _leaf("a dotted name", lambda value: isinstance(value, str) and _FULL_NAME.fullmatch(value) is not None)
_FULL_OR_EMPTY = _leaf(
    "a dotted name, or nothing", lambda value: isinstance(value, str) and len(value) < 1000 and value.isprintable()
)
_TARGET = _leaf(
    "an operator on tensors or sizes (torch.ops.aten...)",
    lambda value: isinstance(value, str) and is_allowed_target(value),
)
_DTYPE = _leaf("a data type", lambda value: type(value) is int and value in _DTYPES)
_SMALL = _leaf("a small number", lambda value: type(value) is int and 0 <= value <= 64)
_TREE = _text(lambda value: check_tree(value))
_DEVICE = _struct({"type": _leaf("cpu or cuda", lambda value: value in ("cpu", "cuda"))}, {"index": _optional(_SMALL)})
_HINT = _union(lambda: {"as_int": _INT, "as_bool": _BOOL, "as_float": _FLOAT})
_EXPRESSION = _struct({"expr_str": _text(check_expression)}, {"hint": _optional(_HINT)})
_SYM_INT = _union(lambda: {"as_expr": _EXPRESSION, "as_int": _INT})
_SYM_FLOAT = _union(lambda: {"as_expr": _EXPRESSION, "as_float": _FLOAT})
_SYM_BOOL = _union(lambda: {"as_expr": _EXPRESSION, "as_bool": _BOOL})
_TENSOR_META = _struct(
    {
        "dtype": _DTYPE,
        "sizes": _list(_SYM_INT),
        "requires_grad": _BOOL,
        "device": _DEVICE,
        "strides": _list(_SYM_INT),
        "storage_offset": _SYM_INT,
        "layout": _leaf("the strided layout", lambda value: type(value) is int and value == 7),
    }
)
_TENSOR = _struct({"name": _NAME})
_SYM_INT_ARGUMENT = _union(lambda: {"as_name": _NAME, "as_int": _INT})
_SYM_FLOAT_ARGUMENT = _union(lambda: {"as_name": _NAME, "as_float": _FLOAT})
_SYM_BOOL_ARGUMENT = _union(lambda: {"as_name": _NAME, "as_bool": _BOOL})
_OPTIONAL_TENSOR = _union(lambda: {"as_tensor": _TENSOR, "as_none": _BOOL})


def _graph_argument(value: Any, place: str) -> Any:
    return _struct({"name": _NAME, "graph": _GRAPH})(value, place)


_ARGUMENTS: dict[str, Check] = {
    "as_none": _BOOL,
    "as_tensor": _TENSOR,
    "as_tensors": _list(_TENSOR),
    "as_int": _INT,
    "as_ints": _list(_INT),
    "as_float": _FLOAT,
    "as_floats": _list(_FLOAT),
    "as_string": _STRING,
    "as_strings": _list(_STRING),
    "as_sym_int": _SYM_INT_ARGUMENT,
    "as_sym_ints": _list(_SYM_INT_ARGUMENT),
    "as_scalar_type": _DTYPE,
    "as_memory_format": _SMALL,
    "as_layout": _SMALL,
    "as_device": _DEVICE,
    "as_bool": _BOOL,
    "as_bools": _list(_BOOL),
    "as_sym_bool": _SYM_BOOL_ARGUMENT,
    "as_sym_bools": _list(_SYM_BOOL_ARGUMENT),
    "as_graph": _graph_argument,
    "as_optional_tensors": _list(_OPTIONAL_TENSOR),
    "as_sym_float": _SYM_FLOAT_ARGUMENT,
    "as_sym_floats": _list(_SYM_FLOAT_ARGUMENT),
    "as_optional_tensor": _OPTIONAL_TENSOR,
    "as_complex": _struct({"real": _FLOAT, "imag": _FLOAT}),
    "as_nested_tensors": _list(_list(_TENSOR)),
    "as_int_lists": _list(_list(_INT)),
    "as_float_lists": _list(_list(_FLOAT)),
}
"""Kinds of arguments; custom objects and operators as arguments are missing on purpose."""

_ARGUMENT = _union(lambda: _ARGUMENTS)
_NODE = _struct(
    {
        "target": _TARGET,
        "inputs": _list(_struct({"name": _EMPTY_OR_NAME, "arg": _ARGUMENT}, {"kind": _optional(_SMALL)})),
        "outputs": _list(_ARGUMENT),
        "metadata": _metadata,
    },
    {"is_hop_single_tensor_return": _optional(_BOOL), "name": _optional(_NAME)},
)
_GRAPH = _struct(
    {
        "inputs": _list(_ARGUMENT),
        "outputs": _list(_ARGUMENT),
        "nodes": _list(_NODE),
        "tensor_values": _dictionary(_NAME, _TENSOR_META),
        "sym_int_values": _dictionary(_NAME, _SYM_INT),
        "sym_bool_values": _dictionary(_NAME, _SYM_BOOL),
    },
    {
        "is_single_tensor_return": _BOOL,
        "custom_obj_values": _leaf("no custom objects", lambda value: value == {}),
        "sym_float_values": _dictionary(_NAME, _SYM_FLOAT),
    },
)
_CONSTANT = _union(
    lambda: {"as_none": _BOOL, "as_int": _INT, "as_float": _FLOAT, "as_string": _STRING, "as_bool": _BOOL}
)
_INPUT = _union(
    lambda: {
        "user_input": _struct({"arg": _ARGUMENT}),
        "parameter": _struct({"arg": _TENSOR, "parameter_name": _FULL}),
        "buffer": _struct({"arg": _TENSOR, "buffer_name": _FULL, "persistent": _BOOL}),
        "tensor_constant": _struct({"arg": _TENSOR, "tensor_constant_name": _FULL}),
        "constant_input": _struct({"name": _NAME, "value": _CONSTANT}),
    }
)
_OUTPUT = _union(
    lambda: {
        "user_output": _struct({"arg": _ARGUMENT}),
        "loss_output": _struct({"arg": _TENSOR}),
        "buffer_mutation": _struct({"arg": _TENSOR, "buffer_name": _FULL}),
        "user_input_mutation": _struct({"arg": _TENSOR, "user_input_name": _NAME}),
        "parameter_mutation": _struct({"arg": _TENSOR, "parameter_name": _FULL}),
    }
)
_CALL_SIGNATURE = _struct(
    {"inputs": _list(_ARGUMENT), "outputs": _list(_ARGUMENT), "in_spec": _TREE, "out_spec": _TREE},
    {"forward_arg_names": _optional(_list(_NAME))},
)
_GRAPH_MODULE = _struct(
    {
        "graph": _GRAPH,
        "signature": _struct({"input_specs": _list(_INPUT), "output_specs": _list(_OUTPUT)}),
        "module_call_graph": _list(_struct({"fqn": _FULL_OR_EMPTY}, {"signature": _optional(_CALL_SIGNATURE)})),
    },
    {
        "metadata": _drop({}),
        "treespec_namedtuple_fields": _leaf("no named tuples", lambda value: value == {}),
    },
)

PROGRAM = _struct(
    {
        "graph_module": _GRAPH_MODULE,
        "opset_version": _dictionary(_STRING, _INT),
        "range_constraints": _dictionary(_range_key, _struct({"min_val": _optional(_INT), "max_val": _optional(_INT)})),
        "schema_version": _struct({"major": _INT, "minor": _INT}),
    },
    {
        "verifiers": _list(_leaf("ATEN or TRAINING", lambda value: value in ("ATEN", "TRAINING", ""))),
        "torch_version": _STRING,
        "guards_code": _list(_text(check_guard)),
    },
)
"""`models/NAME.json`."""

PAYLOADS = _struct(
    {
        "config": _dictionary(
            _FULL,
            _struct(
                {
                    "path_name": _leaf("a record name", lambda value: isinstance(value, str)),
                    "is_param": _BOOL,
                    "use_pickle": _leaf("tensors that are not pickled", lambda value: value is False),
                    "tensor_meta": _TENSOR_META,
                }
            ),
        )
    }
)
"""`data/weights/NAME_weights_config.json` and `data/constants/NAME_constants_config.json`."""
