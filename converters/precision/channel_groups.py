"""Which layers must be scaled together so that the channels of an activation can be, without changing outputs.

Channel c of a Conv's output may be divided by any positive factor if everything that reads it multiplies by the same
one. Relu, PRelu, pooling and means over positions pass factors on; so does a product with a gate. A sum needs the same
factors on both sides, and Convs that share a weight the same on all their inputs and outputs. So values form groups,
and a group can be scaled if its channels begin and end in Convs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["PASS_ON", "ChannelGroup", "channel_groups", "number_of_groups"]

PASS_ON = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
"""Operators with f(a x) = a f(x) for a > 0, per channel."""
_GATES = frozenset({"Sigmoid", "HardSigmoid"})
_FEWEST_AXES = 3
"""Of a value with channels on axis 1 and positions behind it."""


@dataclass(frozen=True)
class ChannelGroup:
    """Values with the same factors, and the Convs that write them and read them; some may share a weight."""

    values: tuple[ir.Value, ...]
    writers: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]

    @property
    def is_chain(self) -> bool:
        """Whether one Conv writes it, and only activation functions and pooling lie between it and its readers."""
        between = {node.op_type for value in self.values for node in value.consumers()}
        return len(self.writers) == 1 and between <= {"Conv", *PASS_ON}


class _Sets:
    """Disjoint sets of values (union-find), some of which are fixed: their factors are 1."""

    def __init__(self) -> None:
        self._above: dict[ir.Value, ir.Value] = {}
        self._fixed: set[ir.Value] = set()

    def top(self, value: ir.Value) -> ir.Value:
        above = self._above.setdefault(value, value)
        if above is not value:
            self._above[value] = above = self.top(above)
        return above

    def join(self, values: Iterable[ir.Value]) -> None:
        first, *others = [self.top(value) for value in values]
        for other in others:
            self._above[other] = first

    def fix(self, values: Iterable[ir.Value]) -> None:
        self._fixed |= set(values)

    def free(self) -> list[list[ir.Value]]:
        """The sets without a fixed value."""
        fixed = {self.top(value) for value in self._fixed}
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in self._above:
            if (top := self.top(value)) not in fixed:
                found.setdefault(top, []).append(value)
        return list(found.values())


def channel_groups(graph: ir.Graph) -> list[ChannelGroup]:
    """All groups of `graph` that can be scaled, in the order of their first value."""
    sets = _Sets()
    sets.fix([*graph.inputs, *graph.outputs])
    for node in graph:
        _place(node, sets)
    _join_sharers([node for node in graph if node.op_type == "Conv"], sets)
    groups = []
    for values in sets.free():
        members = set(values)
        if any(use.node.graph is not graph for value in values for use in value.uses()):
            continue  # read in the body of an If or Loop
        writers = [node for node in graph if node.op_type == "Conv" and node.outputs[0] in members]
        readers = [node for node in graph if node.op_type == "Conv" and node.inputs[0] in members]
        if writers and readers:
            groups.append(ChannelGroup(tuple(values), tuple(writers), tuple(readers)))
    return groups


def _place(node: ir.Node, sets: _Sets) -> None:
    """Join what `node` joins, and fix what it does not pass on."""
    read = [value for value in node.inputs if value is not None and value.const_value is None]
    out = node.outputs[0]
    if node.op_type == "Conv" and _owns_weights(node) and node.inputs[0] in read:
        sets.join([read[0]])
        sets.join([out])
    elif _passes_on(node, read):
        sets.join([read[0], out])
    elif node.op_type == "Add" and len(read) == len(node.inputs) and _same_channels([*read, out]):
        sets.join([*read, out])
    elif node.op_type == "Mul" and len(read) == len(node.inputs) and _same_channels([*read, out]):
        gates = [value for value in read if (maker := value.producer()) is not None and maker.op_type in _GATES]
        scaled = [value for value in read if value not in gates]
        sets.fix(gates if len(scaled) == 1 else [*read, out])
        sets.join([*scaled, out])
    else:
        sets.fix([*read, *node.outputs])


def _passes_on(node: ir.Node, read: list[ir.Value]) -> bool:
    if len(node.outputs) != 1 or len(read) != 1 or read[0] is not node.inputs[0]:
        return False
    return node.op_type in PASS_ON or (node.op_type == "ReduceMean" and _is_over_positions(read[0], node.outputs[0]))


def _owns_weights(node: ir.Node) -> bool:
    """Whether all weights of a Conv are float32 initializers that only Convs read, in the same place."""
    weights = [value for value in node.inputs[1:] if value is not None]
    return bool(weights) and all(
        value.const_value is not None
        and value.is_initializer()
        and value.const_value.dtype == ir.DataType.FLOAT
        and all(_is_conv_of(use.node, node.graph) and use.idx == place for use in value.uses())
        and not value.is_graph_input()
        and not value.is_graph_output()
        for place, value in enumerate(node.inputs[1:], 1)
        if value is not None
    )


def _is_conv_of(node: ir.Node, graph: object) -> bool:
    """Whether it is a Conv of this graph, and not of the body of an If or Loop."""
    return node.op_type == "Conv" and node.graph is graph


def _join_sharers(convs: list[ir.Node], sets: _Sets) -> None:
    """Convs that share a weight or a bias: their outputs in one set; and with a weight, their inputs."""
    first: dict[ir.Value, ir.Node] = {}
    for node in convs:
        for place, value in enumerate(node.inputs[1:], 1):
            other = first.setdefault(value, node) if value is not None else node
            inputs = [each.inputs[0] for each in (other, node) if each.inputs[0] is not None]
            if other is node:
                continue
            sets.join([other.outputs[0], node.outputs[0]])
            if place == 1 and number_of_groups(other) == number_of_groups(node):
                sets.join(inputs)
            elif place == 1:  # the same column is another channel in each
                sets.fix(inputs)


def number_of_groups(node: ir.Node) -> int:
    """The attribute group of a Conv; 1 by default."""
    attribute = node.attributes.get("group")
    return attribute.as_int() if attribute is not None else 1


def _is_over_positions(value: ir.Value, out: ir.Value) -> bool:
    """Whether a mean is over positions alone, with its axes kept."""
    return _same_channels([value, out]) and out.shape is not None and all(size == 1 for size in list(out.shape)[2:])


def _same_channels(values: list[ir.Value]) -> bool:
    """Whether all have channels, as many, and positions."""
    shapes = [value.shape for value in values]
    if any(shape is None or len(shape) < _FEWEST_AXES for shape in shapes):
        return False
    return len({(len(shape), shape[1]) for shape in shapes if shape is not None}) == 1
