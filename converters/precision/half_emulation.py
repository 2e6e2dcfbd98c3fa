"""Compute on any machine what a narrow model gives where 16-bit arithmetic is real.

ONNX Runtime's CPU kernels compute float16 graphs in float32 and round only where it pleases them, so an overflow stays
unseen until a GPU meets it. GPU kernels sum in float32 and round what they write. That is imitated here: a
float32 graph in which every narrow value passes through a pair of Casts.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

__all__ = ["emulate_half"]

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 model with the same inputs that rounds every value that is narrow in `model`; outputs are float32."""
    emulated = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    narrow: dict[ir.Value, ir.DataType] = {}
    for graph in (emulated.graph, *emulated.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            _widen_weight(value)
        for value in graph.inputs:
            if value.dtype in _NARROW and value is not None:
                narrow[value] = value.dtype
    nodes = list(emulated.graph.all_nodes())
    for node in nodes:
        for value in node.outputs:
            if value.dtype in _NARROW and node.op_type != "Constant":
                narrow[value] = value.dtype
        _widen_attributes(node)
    for value, dtype in narrow.items():
        _round(value, dtype, is_half=value in emulated.graph.inputs or _is_cast(value.producer()))
    result = ir.to_proto(emulated)
    del result.graph.value_info[:]
    return result


def _widen_weight(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype in _NARROW:
        array = np.asarray(value.const_value.numpy()).astype(np.float32)
        value.const_value, value.dtype = ir.tensor(array, name=value.name), ir.DataType.FLOAT


def _widen_attributes(node: ir.Node) -> None:
    """Let nodes that make numbers from nothing (Constant, ConstantOfShape, EyeLike, ...) make float32 ones."""
    filling, dtype = node.attributes.get("value"), node.attributes.get("dtype")
    if filling is not None and filling.type == ir.AttributeType.TENSOR and filling.as_tensor().dtype in _NARROW:
        array = np.asarray(filling.as_tensor().numpy()).astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
        node.outputs[0].dtype = ir.DataType.FLOAT
    if dtype is not None and dtype.value in [kind.value for kind in _NARROW]:
        node.attributes["dtype"] = ir.AttrInt64("dtype", ir.DataType.FLOAT.value)


def _is_cast(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Cast"


def _round(value: ir.Value, dtype: ir.DataType, *, is_half: bool) -> None:
    """Let the consumers of `value` (which `is_half` already, or is not) read it rounded but stored in float32."""
    graph, producer = value.graph, value.producer()
    assert graph is not None
    rounded = _cast(value, dtype)
    wide = _cast(rounded.outputs[0], ir.DataType.FLOAT)
    value.replace_all_uses_with(wide.outputs[0], replace_graph_outputs=True)
    rounded.replace_input_with(0, value)
    if is_half:
        wide.replace_input_with(0, value)
    else:
        value.dtype = ir.DataType.FLOAT
    added = [wide] if is_half else [rounded, wide]
    first = next(iter(graph), None)
    if producer is not None:
        graph.insert_after(producer, added)
    elif first is not None:
        graph.insert_before(first, added)
    else:
        graph.extend(added)
    if wide.outputs[0].is_graph_output() and producer is not None:
        value.name, wide.outputs[0].name = f"{value.name}_exact", value.name


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"emulated/{value.name}_as_{dtype.name.lower()}")
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{node.name}_out", ir.TensorType(dtype), value.shape
    return node
