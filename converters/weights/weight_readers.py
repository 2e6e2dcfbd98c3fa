"""Find the nodes of a source graph that read a weight, and those that read it as a fixed argument.

The conversion makes Python numbers of some inputs: the bounds of a Clip, the value of a Pad, an exponent. Exporters
merge equal constants, so one initializer can be such an argument and a trained weight as well (the 6 of a ReLU6 and a
scale that starts at 6). The record names the nodes that a parameter stands for, once for every read; what is read
beyond that is read as a fixed argument, and training must not change it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ..graphs.stripped_weights import weight_tensors
from ..records.record import ConversionRecord

__all__ = ["WeightRead", "WeightReaders", "accounted_reads", "fixed_reads", "stored_origins"]

_FOLDED = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that are folded into a weight, so that their readers read the weight."""
_NO_VALUES = frozenset({"Shape", "Size"})
"""Operators that do not use the values of a weight."""


@dataclass(frozen=True)
class WeightRead:
    """Input `index` of `node`, and the names of the nodes that use its value: `node`, or those behind it."""

    node: onnx.NodeProto
    index: int
    users: tuple[str, ...]


class WeightReaders:
    """The readers of every value of a graph, including those in subgraphs of an If or a Loop."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = tuple(_nodes(graph))
        self._reading: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name:
                    self._reading[name].append((node, index))

    def of(self, value: str, names: Collection[str]) -> list[WeightRead]:
        """The reads of `value`; `names` are of nodes that certainly use it themselves."""
        return [WeightRead(node, index, self._users(node, index, names)) for node, index in self._reading[value]]

    def _users(self, node: onnx.NodeProto, index: int, names: Collection[str]) -> tuple[str, ...]:
        if node.op_type in _NO_VALUES or any(True for _ in _bodies(node)):
            return ()  # what a Loop is given is used in its body, by nodes of other names
        if node.op_type not in _FOLDED or index > 0 or (node.name and node.name in names):
            return (node.name,)
        behind = [user for read in self.of(node.output[0], names) for user in read.users]
        return tuple(behind) if self._reading[node.output[0]] else (node.name,)


def stored_origins(graph: onnx.GraphProto) -> dict[str, str]:
    """Name -> stored weight, for its own name and the names that Identity nodes give it."""
    origins = {name: name for name, _ in weight_tensors(graph)}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in origins:
            origins[node.output[0]] = origins[node.input[0]]
    return origins


def accounted_reads(record: ConversionRecord, parameter: str) -> Counter[str]:
    """How often each node, by name, may read `parameter`."""
    owner = parameter.rpartition(".")[0]
    return Counter((*record.nodes.get(owner, ()), *record.nodes.get(parameter, ())))


def fixed_reads(
    proto: onnx.ModelProto, record: ConversionRecord, origins: Mapping[str, str]
) -> dict[str, Counter[str]]:
    """Weights that are both a parameter and a fixed argument -> names of the nodes that read the argument.

    `origins` leads from the values of parameters to the weights asked for, as `stored_origins` does.
    """
    graph = _inlined(proto)
    readers = WeightReaders(graph)
    accounted: dict[str, Counter[str]] = defaultdict(Counter)
    for name, source in record.parameters.items():
        if source.value in origins:
            accounted[origins[source.value]] += accounted_reads(record, name)
    found = {}
    for origin, names in accounted.items():
        users = Counter(user for read in readers.of(origin, names) for user in read.users)
        if users - names:
            found[origin] = users - names
    return found


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _inlined(proto: onnx.ModelProto) -> onnx.GraphProto:
    """The graph whose nodes the record names: functions stand in the place of their calls."""
    if not proto.functions:
        return proto.graph
    model = ir.from_proto(proto)
    passes.InlinePass()(model)
    return ir.to_proto(model).graph
