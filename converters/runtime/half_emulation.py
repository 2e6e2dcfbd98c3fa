"""Emulate the rounding of fp16 and bf16 on any machine.

ONNX Runtime's CPU kernels compute float16 graphs in float32 and round only some values, so an overflow shows first on
a GPU. GPU kernels sum in float32 and round what they write. `emulate_half` imitates that with a float32 graph in which
every 16-bit value passes through a Cast to 16 bits and a Cast back.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

__all__ = ["emulate_half"]

_HALF_TYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def emulate_half(model: onnx.ModelProto, *, float32_inputs: bool = False) -> onnx.ModelProto:
    """A float32 model that rounds every value that is 16-bit in `model`; it has float32 outputs.

    It has the same inputs, or with `float32_inputs` float32 ones, which are rounded first.
    """
    emulated = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    half: dict[ir.Value, ir.DataType] = {}
    for graph in (emulated.graph, *emulated.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            _weight_to_float32(value)
        for value in graph.inputs:
            if value.dtype in _HALF_TYPES and value is not None:
                half[value] = value.dtype
    nodes = list(emulated.graph.all_nodes())
    for node in nodes:
        for value in node.outputs:
            if value.dtype in _HALF_TYPES and node.op_type != "Constant":
                half[value] = value.dtype
        _attributes_to_float32(node)
    for value, dtype in half.items():
        _round(
            value, dtype, is_half=(value in emulated.graph.inputs and not float32_inputs) or _is_cast(value.producer())
        )
    result = ir.to_proto(emulated)
    del result.graph.value_info[:]
    return result


def _weight_to_float32(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype in _HALF_TYPES:
        array = np.asarray(value.const_value.numpy()).astype(np.float32)
        value.const_value, value.dtype = ir.tensor(array, name=value.name), ir.DataType.FLOAT


def _attributes_to_float32(node: ir.Node) -> None:
    """Make nodes that create values (Constant, ConstantOfShape, EyeLike, ...) create float32."""
    filling, dtype = node.attributes.get("value"), node.attributes.get("dtype")
    if filling is not None and filling.type == ir.AttributeType.TENSOR and filling.as_tensor().dtype in _HALF_TYPES:
        array = np.asarray(filling.as_tensor().numpy()).astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
        node.outputs[0].dtype = ir.DataType.FLOAT
    if dtype is not None and dtype.value in [kind.value for kind in _HALF_TYPES]:
        node.attributes["dtype"] = ir.AttrInt64("dtype", ir.DataType.FLOAT.value)


def _is_cast(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Cast"


def _round(value: ir.Value, dtype: ir.DataType, *, is_half: bool) -> None:
    """Make the readers of `value` read it rounded to `dtype`, stored in float32; `is_half`: it is rounded already."""
    graph, producer = value.graph, value.producer()
    assert graph is not None
    rounded = _cast(value, dtype)
    back = _cast(rounded.outputs[0], ir.DataType.FLOAT)
    value.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)
    rounded.replace_input_with(0, value)
    if is_half:
        back.replace_input_with(0, value)
    else:
        value.dtype = ir.DataType.FLOAT
    added = [back] if is_half else [rounded, back]
    first = next(iter(graph), None)
    if producer is not None:
        graph.insert_after(producer, added)
    elif first is not None:
        graph.insert_before(first, added)
    else:
        graph.extend(added)
    if back.outputs[0].is_graph_output() and producer is not None:
        value.name, back.outputs[0].name = f"{value.name}_exact", value.name


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"emulated/{value.name}_as_{dtype.name.lower()}")
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{node.name}_out", ir.TensorType(dtype), value.shape
    return node
