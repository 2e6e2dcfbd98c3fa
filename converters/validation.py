"""Structural checks on an ONNX proto before anything is built from it: names, opsets, sizes of weights.

A file that fails here would otherwise crash, hang or give wrong numbers further on. Operators and shapes are not
looked at. External data may only lie inside the folder of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import InputError
from .shapes import skeleton

__all__ = ["check_external_data", "check_proto", "model_problem"]

_COMPLEX = (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)
_LARGE, _ABSURD = 1 << 20, 1 << 31
"""Bytes; protobuf holds no more than 2 GiB."""
_ONNX_DOMAINS = ("", "ai.onnx")
_TYPED_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.STRING: "string_data",
}


def check_proto(proto: onnx.ModelProto, name: str) -> None:
    """Check names, opset and in-file weights.

    Raises:
        InputError: with the first problem found, naming `name` and the node or weight.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{name}: expected an ONNX model, got a file without a graph; fetch or export it again")
    uses_onnx = any(node.domain in _ONNX_DOMAINS for node in proto.graph.node)
    if uses_onnx and not any(entry.domain in _ONNX_DOMAINS for entry in proto.opset_import):
        raise InputError(f"{name}: expected an opset_import of the ONNX domain, got none; export it again")
    if not proto.graph.output:
        raise InputError(f"{name}: expected at least one graph output, got none; export it again")
    _check_graph(proto.graph, frozenset(), name)


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str], name: str) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor, f"{name}: initializer '{tensor.name}'")
    defined = _defined_names(graph, name)
    visible = outer | defined
    for node in graph.node:
        label = f"{name}: node '{node.name or (node.output[0] if node.output else '')}' ({node.op_type})"
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


def _check_known(names: Iterable[str], visible: frozenset[str], label: str) -> None:
    for value in names:
        if value and value not in visible:
            raise InputError(f"{label}: '{value}' is defined nowhere; the file is damaged or cut, export it again")


def _check_tensor(tensor: onnx.TensorProto, label: str) -> None:
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(f"{label}: negative dimension in {list(tensor.dims)}; export the model again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        raise InputError(f"{label}: unknown data type {tensor.data_type}; export the model again") from None
    if dtype == ir.DataType.UNDEFINED:
        raise InputError(f"{label}: data type missing; export the model again")
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        expected, unit = math.ceil(elements * dtype.bitwidth / 8), "bytes"
        if _LARGE < expected < _ABSURD:
            return  # looking copies the bytes; `torch_tensor` notices when it reads them anyway
        got = len(tensor.raw_data)
    else:
        field = _TYPED_FIELDS.get(dtype, "int32_data")
        expected = elements * 2 if dtype in _COMPLEX else elements
        got, unit = len(getattr(tensor, field)), "numbers"
        if dtype.bitwidth < 8:
            expected = math.ceil(elements * dtype.bitwidth / 8)
    if got != expected:
        raise InputError(
            f"{label}: shape {list(tensor.dims)} needs {expected} {unit}, got {got}; the weights were stripped or the "
            "file is cut, fetch the whole model"
        )


def model_problem(model: ir.Model) -> str | None:
    """What onnx's own checker has against a model (its weights left out), or None."""
    try:
        onnx.checker.check_model(skeleton(model))
    except Exception as error:  # text that is not UTF-8 fails before the checker is reached
        return str(error).strip().splitlines()[0]
    return None


def check_external_data(model: ir.Model, name: str, path: Path | None) -> None:
    """Check that external weights lie inside the model's folder, exist and have the right size.

    Raises:
        InputError: naming the weight and the data file.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        label = f"{name}: initializer '{value.name}'"
        if path is None:
            raise InputError(f"{label} is external data of a model in memory; give the path of the .onnx file")
        _check_external_tensor(tensor, path.parent, label)


def _check_external_tensor(tensor: ir.ExternalTensor, folder: Path, label: str) -> None:
    file = folder / tensor.location
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{label}: external data '{tensor.location}' leaves the model's folder; put it beside the model"
        )
    if not file.is_file():
        raise InputError(f"{label}: external data file {file} is missing; copy it beside the model")
    offset = tensor.offset or 0
    length = tensor.nbytes if tensor.length is None else tensor.length
    if length != tensor.nbytes:
        raise InputError(f"{label}: shape needs {tensor.nbytes} bytes, the file declares {length}; export it again")
    if offset < 0 or offset + length > file.stat().st_size:
        raise InputError(
            f"{label}: expected bytes {offset}..{offset + length} of {file}, which has {file.stat().st_size}; "
            "the data file is cut or another model's, copy it again"
        )
