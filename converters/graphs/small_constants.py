"""The value of a small constant of a graph, whatever nodes compute it: exporters write a mean as Constant and Reshape.

Evaluated by onnx's reference evaluator; tensors of many elements are left alone, for nothing here needs their values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from .graph_view import GraphView

__all__ = ["small_constant"]

_DEPTH = 16
"""Nodes in a row that may prepare a constant."""


def small_constant(view: GraphView, name: str, most: int) -> NDArray[Any] | None:
    """The constant `name`, if it and all that it is computed from have at most `most` elements; None otherwise."""
    return _value(view, name, most, _DEPTH)


def _value(view: GraphView, name: str, most: int, depth: int) -> NDArray[Any] | None:
    if name not in view.constants or depth == 0:
        return None
    if name in view.stored:
        tensor = view.stored[name]
        fits = math.prod(tensor.dims) <= most and tensor.data_type != onnx.TensorProto.STRING
        return numpy_helper.to_array(tensor) if fits and not tensor.external_data else None
    node = view.producers[name]
    feeds = {entry: _value(view, entry, most, depth - 1) for entry in node.input if entry}
    if any(value is None for value in feeds.values()):
        return None
    return _computed(view, node, name, feeds, most)


def _computed(
    view: GraphView, node: onnx.NodeProto, name: str, feeds: dict[str, NDArray[Any] | None], most: int
) -> NDArray[Any] | None:
    from ..reference.evaluator import reference_evaluator

    inputs = [
        onnx.helper.make_tensor_value_info(key, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for key, value in feeds.items()
        if value is not None
    ]
    graph = onnx.helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=name, type=onnx.TypeProto())])
    model = onnx.helper.make_model(graph, opset_imports=view.proto.opset_import, ir_version=10)
    try:
        outputs: Any = reference_evaluator(model).run([name], feeds)
        result = np.asarray(outputs[0])
    except Exception:  # what cannot be evaluated is not a constant to know; the evaluator raises any type of error
        return None
    return result if result.size <= most and result.dtype.kind in "iuf" else None
