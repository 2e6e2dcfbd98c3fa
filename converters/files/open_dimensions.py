"""Dimensions that exporters wrote as a negative number, or as 0, to say "open".

Paddle2ONNX and others store -1 where ONNX has a symbol or nothing; MXNet stores 0 for a size it does not know. ONNX
Runtime reads every negative size as open, and so does rtool, from loading on: such a dimension loses its number. A 0 is
open in an image input only, of four axes: a network of no images, channels, rows or columns computes nothing; and in an
output of a network whose inputs are not empty. Elsewhere it is a size, that of an empty tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

__all__ = ["has_misstated_dimensions", "state_open_dimensions"]

_IMAGE_AXES = 4


def has_misstated_dimensions(proto: onnx.ModelProto) -> bool:
    """Whether any value of `proto` states an open dimension as a number."""
    return next(_misstated(proto), None) is not None


def state_open_dimensions(proto: onnx.ModelProto) -> bool:
    """Take the number from every open dimension, in place; whether there was one."""
    found = list(_misstated(proto))
    for dimension in found:
        dimension.Clear()
    return bool(found)


def _misstated(proto: onnx.ModelProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    images = [value for value in proto.graph.input if value.name not in weights and len(_dims(value)) == _IMAGE_AXES]
    without_images = any(dim.HasField("dim_value") and dim.dim_value == 0 for image in images for dim in _dims(image))
    lowest = 1 if without_images else 0
    for value in proto.graph.input:
        yield from _below(value, lowest if value.name not in weights else 0)
    given = [dim for value in proto.graph.input if value.name not in weights for dim in _dims(value)]
    is_empty = not without_images and any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in given)
    for value in proto.graph.output:
        yield from _below(value, 0 if is_empty else 1)
    for graph in (proto.graph, *_subgraphs(proto.graph.node), *_of_functions(proto)):
        for value in graph.value_info:
            yield from _below(value, lowest)
        if graph is not proto.graph and isinstance(graph, onnx.GraphProto):
            for value in (*graph.input, *graph.output):
                yield from _below(value, lowest)


def _of_functions(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    for function in proto.functions:
        yield function
        yield from _subgraphs(function.node)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph
                yield from _subgraphs(graph.node)


def _below(value: onnx.ValueInfoProto, lowest: int) -> Iterator[onnx.TensorShapeProto.Dimension]:
    for dim in _dims(value):
        if dim.HasField("dim_value") and dim.dim_value < lowest:
            yield dim


def _dims(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim) if value.type.HasField("tensor_type") else []
