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
        _widen_constant(node)
        for value in node.outputs:
            if value.dtype in _NARROW:
                narrow[value] = value.dtype
    for value, dtype in narrow.items():
        _round(value, dtype)
    result = ir.to_proto(emulated)
    del result.graph.value_info[:]
    return result


def _widen_weight(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype in _NARROW:
        array = np.asarray(value.const_value.numpy()).astype(np.float32)
        value.const_value, value.dtype = ir.tensor(array, name=value.name), ir.DataType.FLOAT


def _widen_constant(node: ir.Node) -> None:
    attribute = node.attributes.get("value")
    if node.op_type == "Constant" and attribute is not None and attribute.as_tensor().dtype in _NARROW:
        array = np.asarray(attribute.as_tensor().numpy()).astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
        node.outputs[0].dtype = ir.DataType.FLOAT


def _round(value: ir.Value, dtype: ir.DataType) -> None:
    """Let the consumers of `value` read it rounded to `dtype` but stored in float32."""
    graph, producer = value.graph, value.producer()
    assert graph is not None
    rounded = _cast(value, dtype)
    wide = _cast(rounded.outputs[0], ir.DataType.FLOAT)
    is_input = producer is None
    makes_narrow = producer is not None and producer.op_type == "Cast"
    value.replace_all_uses_with(wide.outputs[0], replace_graph_outputs=True)
    rounded.replace_input_with(0, value)
    if is_input:
        wide.replace_input_with(0, value)  # the input itself is narrow already
        first = next(iter(graph))
        graph.insert_before(first, wide)
    elif makes_narrow:
        wide.replace_input_with(0, value)
        graph.insert_after(producer, wide)  # type: ignore[arg-type]
    else:
        value.dtype = ir.DataType.FLOAT
        graph.insert_after(producer, [rounded, wide])  # type: ignore[arg-type]
    if wide.outputs[0].is_graph_output() and not is_input:
        value.name, wide.outputs[0].name = f"{value.name}_exact", value.name


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"{value.name}_as_{dtype.name.lower()}")
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{node.name}_out", ir.TensorType(dtype), value.shape
    return node
