"""Structural checks on an ONNX proto before anything is built from it: names, opsets, sizes of weights.

A file that fails here would otherwise crash, hang or give wrong numbers later. Operators and shapes are not checked;
external data is checked in `external_data`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx

from ...errors import InputError
from .element_types import bits_of

__all__ = ["check_proto"]

_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
_LARGE, _ABSURD = 1 << 20, 1 << 31
"""Bytes; protobuf holds at most 2 GiB. Also the limit on the elements of a graph input."""
_ONNX_DOMAINS = ("", "ai.onnx")
_TYPED_FIELDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.COMPLEX64: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.COMPLEX128: "double_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.STRING: "string_data",
}


def check_proto(proto: onnx.ModelProto, name: str) -> None:
    """Check names, opset and in-file weights.

    Raises:
        InputError: with the first problem found, naming `name` and the node or weight.
    """
    _check_text((proto.producer_name, proto.producer_version, proto.domain, proto.doc_string), name)
    _check_text((text for entry in proto.metadata_props for text in (entry.key, entry.value)), f"{name}: metadata")
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{name}: expected an ONNX model, got a file without a graph; fetch or export it again")
    uses_onnx = any(node.domain in _ONNX_DOMAINS for node in proto.graph.node)
    if uses_onnx and not any(entry.domain in _ONNX_DOMAINS for entry in proto.opset_import):
        raise InputError(f"{name}: expected an opset_import of the ONNX domain, got none; export it again")
    domains = [entry.domain for entry in proto.opset_import]
    if len(set(domains)) != len(domains):
        raise InputError(f"{name}: a domain is imported twice ({domains}); the file is damaged, fetch it again")
    if proto.ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{name}: IR version {proto.ir_version} is newer than the newest known ({onnx.IR_VERSION}); export the "
            "model with an older one"
        )
    for value in proto.graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if math.prod(dim for dim in dims if dim > 0) > _ABSURD:
            raise InputError(f"{name}: graph input '{value.name}' of shape {dims} is absurdly large; export it again")
    if not proto.graph.output:
        raise InputError(f"{name}: expected at least one graph output, got none; export it again")
    _check_graph(proto.graph, frozenset(), name)


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str], name: str) -> None:
    values = (*graph.input, *graph.output, *graph.value_info)
    _check_text((graph.name, graph.doc_string, *(value.name for value in values)), name)
    for tensor in graph.initializer:
        _check_tensor(tensor, f"{name}: initializer '{tensor.name}'")
    defined = _defined_names(graph, name)
    visible = outer | defined
    for node in graph.node:
        label = f"{name}: node '{node.name or (node.output[0] if node.output else '')}' ({node.op_type})"
        _check_text(_node_texts(node), label)
        _check_known(node.input, visible, label)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _check_tensor(attribute.t, f"{label}: attribute '{attribute.name}'")
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _check_graph(inner, visible, name)
    _check_known((output.name for output in graph.output), visible, f"{name}: graph outputs")


def _defined_names(graph: onnx.GraphProto, name: str) -> frozenset[str]:
    defined = {value.name for value in graph.input}
    if len(defined) != len(graph.input):
        raise InputError(f"{name}: two graph inputs share one name; export the model again")
    initializers = {tensor.name for tensor in graph.initializer}
    if len(initializers) != len(graph.initializer):
        raise InputError(f"{name}: two initializers share one name; export the model again")
    defined |= initializers | {sparse.values.name for sparse in graph.sparse_initializer}
    for node in graph.node:
        for output in node.output:
            if output and output in defined:
                raise InputError(
                    f"{name}: node '{node.name}' ({node.op_type}): output '{output}' is already defined; "
                    "names must be unique, export the model again"
                )
            defined.add(output)
    return frozenset(defined)


def _node_texts(node: onnx.NodeProto) -> Iterator[str | bytes]:
    yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
    for attribute in node.attribute:
        yield from (attribute.name, attribute.doc_string, attribute.ref_attr_name)
    for entry in node.metadata_props:
        yield from (entry.key, entry.value)


def _check_text(texts: Iterable[str | bytes], label: str) -> None:
    for text in texts:
        if isinstance(text, bytes):  # what protobuf returns when it cannot decode a string
            raise InputError(f"{label}: {text!r} is not UTF-8 text; the file is damaged, fetch it again")


def _check_known(names: Iterable[str], visible: frozenset[str], label: str) -> None:
    for value in names:
        if value and value not in visible:
            raise InputError(f"{label}: '{value}' is defined nowhere; the file is damaged or cut, export it again")


def _check_tensor(tensor: onnx.TensorProto, label: str) -> None:
    _check_text((tensor.name, tensor.doc_string), label)
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(f"{label}: negative dimension in {list(tensor.dims)}; export the model again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return  # `external_data` checks it
    try:
        bits = bits_of(tensor.data_type)
    except ValueError:
        raise InputError(f"{label}: unknown data type {tensor.data_type}; export the model again") from None
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise InputError(f"{label}: data type missing; export the model again")
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        expected, unit = math.ceil(elements * bits / 8), "bytes"
        if _LARGE < expected < _ABSURD:
            return  # looking copies the bytes; `torch_tensor` notices when it reads them anyway
        got = len(tensor.raw_data)
    else:
        field = _TYPED_FIELDS.get(tensor.data_type, "int32_data")
        expected = elements * 2 if tensor.data_type in _COMPLEX else elements
        got, unit = len(getattr(tensor, field)), "numbers"
        if 0 < bits < 8:
            expected = math.ceil(elements * bits / 8)
    if got != expected:
        raise InputError(
            f"{label}: shape {list(tensor.dims)} needs {expected} {unit}, got {got}; the weights were stripped or the "
            "file is cut, fetch the whole model"
        )
