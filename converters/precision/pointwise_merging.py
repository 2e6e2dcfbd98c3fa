"""Merge a linear 1x1 convolution into the depthwise one behind it: one dense convolution that computes the same.

W[o, i, y, x] = D[o, 0, y, x] P[o, i], for P without bias and padding: zero padding of P's output is P of the padded
input, so the borders are right too. Without the merge the value between both layers is one more that int8 rounds, and
in OSNet, whose lite layers are all of this form, that rounding costs most of the loss. The merged layer has more
arithmetic: k^2 c^2 products per pixel instead of c^2 + k^2 c.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["merge_pointwise"]


def merge_pointwise(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy of `model` with such pairs merged, and how many there were; products are summed in float64."""
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    graph = merged.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    gone: list[onnx.NodeProto] = []
    for node in graph.node:
        first = makers.get(node.input[0]) if node.op_type == "Conv" else None
        if first is None or readers[node.input[0]] != 1:
            continue
        found = _pair(first, node, weights)
        if found is None:
            continue
        point, depth = found
        dense = depth.astype(np.float64) * point.astype(np.float64).reshape(*point.shape[:2], *[1] * (depth.ndim - 2))
        name = f"{node.input[1]}_merged"
        graph.initializer.append(numpy_helper.from_array(dense.astype(np.float32), name))
        node.input[0], node.input[1] = first.input[0], name
        _set_group(node)
        gone.append(first)
    for node in gone:
        graph.node.remove(node)
    _drop_unread(graph)
    return merged, len(gone)


def _pair(
    first: onnx.NodeProto, second: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The weights P [C, I, 1, 1] and D [C, 1, k, k] of a pair that may be merged."""
    if first.op_type != "Conv" or len(first.input) > 2 or not {first.input[1], second.input[1]} <= weights.keys():
        return None
    tensors = (weights[first.input[1]], weights[second.input[1]])
    if any(tensor.data_type != onnx.TensorProto.FLOAT for tensor in tensors):
        return None
    point, depth = (numpy_helper.to_array(tensor) for tensor in tensors)
    channels = len(point)
    plain = {"kernel_shape": {1}, "strides": {1}, "pads": {0}, "dilations": {1}}
    for attribute in first.attribute:
        if attribute.name == "group" and attribute.i != 1:
            return None
        if attribute.name == "auto_pad" and attribute.s not in (b"NOTSET", b"VALID"):
            return None
        if attribute.name in plain and set(attribute.ints) != plain[attribute.name]:
            return None
    if set(point.shape[2:]) != {1} or depth.shape[:2] != (channels, 1) or channels == 1:
        return None
    group = next((attribute.i for attribute in second.attribute if attribute.name == "group"), 1)
    return (point, depth) if group == channels else None


def _set_group(node: onnx.NodeProto) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != "group"]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
