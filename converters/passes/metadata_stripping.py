"""Remove traces of the exporting machine: stack traces with file paths, scopes, documentation strings.

1. Documentation strings go from the model, its graphs, functions, nodes, attributes, values and tensors.
2. Metadata entries go from graphs, functions, nodes, values and tensors.
3. The model's own metadata stays: it holds the preprocessing and the provenance.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["strip_metadata"]


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` without documentation strings and without metadata, except the model's own metadata."""
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    stripped.ClearField("doc_string")
    for graph in _graphs(stripped):
        _strip(graph)
        if isinstance(graph, onnx.GraphProto):
            for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
                _strip(entry)
        for node in graph.node:
            _strip(node)
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                    _strip(tensor)
    return stripped


def _strip(
    proto: onnx.GraphProto | onnx.FunctionProto | onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto,
) -> None:
    proto.ClearField("doc_string")
    del proto.metadata_props[:]


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The main graph, the functions, and every subgraph of both."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs
