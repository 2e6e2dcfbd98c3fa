"""Give the inputs and outputs of a graph the names that its users know; inner values make room.

ONNX has one name space for inputs, outputs, initializers and inner values. An exporter asked for an output named as one
of its own inner values writes the name twice, and no runtime loads the file. Here the names outside are kept and the
inner ones become unique.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from ...errors import InputError

__all__ = ["with_interface_names"]


def with_interface_names(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` whose inputs and outputs are called `inputs` and `outputs`, in graph order.

    An output that is an input, a weight or another output as well becomes one of its own, by an Identity.

    Raises:
        InputError: there is another number of inputs or outputs, or a name is empty or given twice.
    """
    graph_model = ir.from_proto(model)
    graph = graph_model.graph
    own = [value for value in graph.inputs if not value.is_initializer()]
    if (len(own), len(graph.outputs)) != (len(inputs), len(outputs)):
        raise InputError(
            f"the graph has {len(own)} inputs and {len(graph.outputs)} outputs; got {len(inputs)} names for inputs "
            f"({', '.join(inputs)}) and {len(outputs)} for outputs ({', '.join(outputs)})"
        )
    wanted = [*inputs, *outputs]
    if "" in wanted or len(set(wanted)) != len(wanted):
        raise InputError(
            f"names of inputs and outputs must be unique and not empty, got {', '.join(map(repr, wanted))}"
        )
    _separate_outputs(graph)
    outside = {*own, *graph.outputs}
    taken = set(wanted) | {value.name for value in _values(graph) if value.name}
    for value in _values(graph):
        if value not in outside and value.name in wanted:
            value.name = _free(value.name, taken)
    for value, name in zip((*own, *graph.outputs), wanted, strict=True):
        value.name = name
    return ir.to_proto(graph_model)


def _separate_outputs(graph: ir.Graph) -> None:
    seen: set[ir.Value] = set()
    for index, value in enumerate(list(graph.outputs)):
        if value in seen or value.producer() is None:
            node = ir.node("Identity", [value], name=f"{value.name}_as_output_{index}")
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        seen.add(value)


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Every value of the graph and of the graphs inside its nodes: they see each other's names."""
    found: dict[ir.Value, None] = {}
    for part in (graph, *graph.subgraphs()):
        found.update(dict.fromkeys((*part.inputs, *part.initializers.values())))
        for node in part:
            found.update(dict.fromkeys(node.outputs))
    return list(found)


def _free(name: str | None, taken: set[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"
