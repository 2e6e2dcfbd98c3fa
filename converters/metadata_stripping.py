"""Remove what exporters leave about their machine: stack traces with file paths, scopes, documentation strings."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["strip_metadata"]


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without documentation strings and without metadata of nodes, values and graphs.

    The model's own metadata stays: it holds the preprocessing and where the model comes from.
    """
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    stripped.ClearField("doc_string")
    for graph in (*_graphs(stripped.graph), *stripped.functions):
        _strip(graph)
        for node in graph.node:
            _strip(node)
        values = (*graph.input, *graph.output, *graph.value_info) if isinstance(graph, onnx.GraphProto) else ()
        tensors = graph.initializer if isinstance(graph, onnx.GraphProto) else ()
        for entry in (*values, *tensors):
            _strip(entry)
    return stripped


def _strip(
    proto: onnx.GraphProto | onnx.FunctionProto | onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto,
) -> None:
    proto.ClearField("doc_string")
    del proto.metadata_props[:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for nested in attribute.graphs:
                yield from _graphs(nested)
