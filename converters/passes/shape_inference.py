"""Infer the shape and dtype of every value with onnx's shape inference, on a copy of the model without weights.

1. Shapes that the file states are ignored, except those of inputs: files whose batch was edited often state stale ones.
2. Constants of up to 2 KiB take part, because they may be shapes; larger ones become inputs of the same shape.
3. Symbolic dimensions keep their names; equal names mean equal sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..operators.refusals import shapes_contradict

__all__ = ["infer_node", "infer_shapes", "model_problem", "skeleton"]

_SMALL = 2048
"""Bytes; constants up to this size may be shapes and take part in inference."""
_ANY_TENSOR = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)


def infer_shapes(model: ir.Model, label: str) -> None:
    """Set the shape and dtype of every node output, in place; the shape is None where it cannot be inferred.

    Raises:
        InputError: the shapes in the graph contradict each other; `label` names the model.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(model), strict_mode=False, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise shapes_contradict(label, error) from error
    infos = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            _apply(value, infos.get(value.name or ""))


def infer_node(node: ir.Node, known: Mapping[str, NDArray[np.int64]], opsets: Mapping[str, int]) -> None:
    """Infer the outputs of one node again, now that more of its inputs are known than in `infer_shapes`.

    `known` maps names of integer inputs to their values. Shapes that still cannot be inferred stay unknown.
    """
    if node.domain not in ("", "ai.onnx"):
        return
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name is None or value.type is None:
            continue
        types[value.name] = ir.serde.serialize_value(value).type
        if value.const_value is not None and value.const_value.nbytes <= _SMALL:
            data[value.name] = ir.serde.serialize_tensor(value.const_value)
        elif value.name in known:
            data[value.name] = onnx.numpy_helper.from_array(known[value.name], value.name)
    schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), "")
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, ir.serde.serialize_node(node), types, data, opset_imports=imports, ir_version=10
        )
    except (onnx.shape_inference.InferenceError, KeyError, RuntimeError):
        return
    for value in node.outputs:
        if value.name in inferred:
            _apply(value, onnx.ValueInfoProto(name=value.name, type=inferred[value.name]))


def _apply(value: ir.Value, info: onnx.ValueInfoProto | None) -> None:
    if info is None or info.type.WhichOneof("value") != "tensor_type":
        value.shape = None
        return
    tensor = info.type.tensor_type
    value.dtype = ir.DataType(tensor.elem_type)
    if not tensor.HasField("shape"):
        value.shape = None
        return
    value.shape = ir.Shape(
        [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
    )


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto without weights over 2 KiB: those become inputs of the same shape."""
    graph = onnx.GraphProto(name="skeleton")
    for value in model.graph.inputs:
        graph.input.append(ir.serde.serialize_value(value))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_input():
            continue
        if tensor.nbytes <= _SMALL and tensor.dtype != ir.DataType.STRING:
            graph.initializer.append(ir.serde.serialize_tensor(tensor))
            graph.initializer[-1].name = value.name or ""
        else:
            dims = list(tensor.shape.numpy())
            graph.input.append(onnx.helper.make_tensor_value_info(value.name or "", int(tensor.dtype), dims))
    for node in model.graph:
        graph.node.append(ir.serde.serialize_node(node))
    for value in model.graph.outputs:
        graph.output.append(onnx.ValueInfoProto(name=value.name or ""))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def model_problem(model: ir.Model) -> str | None:
    """The first line of what onnx's checker reports about a model (checked without weights); None if it is valid."""
    try:
        proto = skeleton(model)
        for output, value in zip(proto.graph.output, model.graph.outputs, strict=True):
            # The skeleton has no output types, because inference sets them; the checker demands some.
            stated = ir.serde.serialize_value(value).type
            output.type.CopyFrom(stated if stated.WhichOneof("value") else _ANY_TENSOR)
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(proto)
    except Exception as error:  # a graph that cannot be serialised fails before the checker runs
        return str(error).strip().splitlines()[0]
    return None
