"""Remove redundant parts of a quantised graph; in small networks they take more bytes than the weights.

1. Names of quantisers (QuantizeLinear, DequantizeLinear); their axis, where the scale is a scalar or the axis is 1.
2. Zero points of symmetric weights: zero by definition, and optional.
3. Attributes of Conv that state the default.
4. Copies of equal constants (scales, zero points), and constants that nothing reads.
5. Long names of values and weights, see `short_names`, and inferred shapes.

Names of the source's nodes, inputs and outputs stay. The outputs are unchanged.
"""

from __future__ import annotations

import sys

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ..passes.short_names import shorten_values, shorten_weights
from ..records.metadata import FOLDED_KEY

__all__ = ["compact_quantised"]

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_SYMMETRIC = (ir.DataType.INT8, ir.DataType.INT32)


def compact_quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, a model in QDQ form, without redundant tensors, attributes and names."""
    own = onnx.ModelProto()
    own.CopyFrom(model)  # renaming a weight would rename it in the caller's model
    compacted = ir.from_proto(own)
    for node in compacted.graph:
        if node.op_type in _QUANTISERS:
            node.name = None
            _drop_needless_axis(node)
            _drop_needless_zero_point(node)
        elif node.op_type == "Conv":
            _drop_default_attributes(node)
    passes.DeduplicateInitializersPass(size_limit=sys.maxsize)(compacted)
    _drop_unread_constants(compacted.graph)
    compacted.metadata_props.pop(FOLDED_KEY, None)  # it refers to weights by the names that change here
    shorten_values(compacted)
    shorten_weights(compacted)
    result = ir.to_proto(compacted)
    del result.graph.value_info[:]
    return result


def _drop_needless_axis(node: ir.Node) -> None:
    """Rule 1 (axis); the default axis is 1."""
    scale, axis = node.inputs[1], node.attributes.get("axis")
    if axis is not None and scale is not None and (axis.as_int() == 1 or (scale.shape is not None and not scale.shape)):
        node.attributes.pop("axis")


def _drop_needless_zero_point(node: ir.Node) -> None:
    """Rule 2; a missing zero point is zero, in the dtype of the quantised weight."""
    if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return
    weight, zero = node.inputs[0], node.inputs[2]
    if weight is None or zero is None or zero.const_value is None or not weight.is_initializer():
        return
    if zero.const_value.dtype in _SYMMETRIC and not zero.const_value.numpy().any():
        node.resize_inputs(2)


def _drop_default_attributes(node: ir.Node) -> None:
    """Rule 3; kernel_shape stays, because some readers need it."""
    for name, default in (("dilations", 1), ("strides", 1), ("pads", 0)):
        attribute = node.attributes.get(name)
        if attribute is not None and set(attribute.as_ints()) == {default}:
            node.attributes.pop(name)
    group = node.attributes.get("group")
    if group is not None and group.as_int() == 1:
        node.attributes.pop("group")
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() == "NOTSET":
        node.attributes.pop("auto_pad")


def _drop_unread_constants(graph: ir.Graph) -> None:
    """Rule 4, second half."""
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
            graph.initializers.pop(name)
