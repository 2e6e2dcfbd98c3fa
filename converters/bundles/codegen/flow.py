"""The data flow of an fx graph: one order of its nodes, what lies between nodes, what goes into a region and out.

A region is a set of nodes. Nothing here depends on the order in which the nodes stand in the file: optimisers sort
them again, and the same network is to be written the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from typing import Any

from torch import fx

__all__ = ["Flow", "Region", "post_order", "shape_of", "uses_weights"]

Region = Set[fx.Node]


def uses_weights(node: fx.Node) -> bool:
    """Whether the node calls a layer or reads a parameter or buffer."""
    return node.op in ("call_module", "get_attr")


def post_order(ends: Iterable[Any], inputs_of: Callable[[Any], Iterable[Any]]) -> list[Any] | None:
    """Everything `ends` depend on, each item after its inputs, in the order in which arguments are written.

    None when there is a circle.
    """
    done: dict[int, Any] = {}
    open_: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(end, False) for end in reversed(list(ends))]
    while waiting:
        item, is_ready = waiting.pop()
        if is_ready:
            open_.discard(id(item))
            done[id(item)] = item
        elif id(item) in open_:
            return None
        elif id(item) not in done:
            open_.add(id(item))
            waiting.append((item, True))
            waiting += [(needed, False) for needed in reversed(list(inputs_of(item))) if id(needed) not in done]
    return list(done.values())


class Flow:
    """The body of a graph, and questions about it."""

    def __init__(self, graph: fx.Graph) -> None:
        self.inputs = [node for node in graph.nodes if node.op == "placeholder"]
        returned = next(node for node in graph.nodes if node.op == "output").args[0]
        self.results: list[fx.Node] = list(returned) if isinstance(returned, tuple | list) else [returned]
        ends = [*self.results, *(node for node in graph.nodes if node.op not in ("placeholder", "output"))]
        found = post_order(ends, lambda node: node.all_input_nodes)
        assert found is not None
        self.body = [node for node in found if node.op != "placeholder"]
        self._place = {node: place for place, node in enumerate(found)}
        self._results = set(self.results)
        self._varying = set(self.inputs)
        for node in self.body:
            if not self._varying.isdisjoint(node.all_input_nodes):
                self._varying.add(node)

    def ordered(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """`nodes` in the order of the graph."""
        return sorted(nodes, key=self._place.__getitem__)

    def is_constant(self, node: fx.Node) -> bool:
        """Whether the value depends on no input."""
        return node not in self._varying

    def first(self, nodes: Iterable[fx.Node]) -> int:
        """The place of the first of `nodes` in the order of the graph."""
        return min(map(self._place.__getitem__, nodes))

    def between(self, ends: Collection[fx.Node], within: Region) -> set[fx.Node]:
        """`ends` and every node of `within` that lies on a way from one of them to another."""
        first, last = self.first(ends), max(map(self._place.__getitem__, ends))
        near = {node for node in within if first <= self._place[node] <= last}
        after = self._reach(ends, near, lambda node: node.users)
        return self._reach(ends, after, lambda node: node.all_input_nodes)

    @staticmethod
    def _reach(ends: Collection[fx.Node], within: Region, next_of: Callable[[fx.Node], Any]) -> set[fx.Node]:
        reached, waiting = set(ends), list(ends)
        while waiting:
            for node in next_of(waiting.pop()):
                if node in within and node not in reached:
                    reached.add(node)
                    waiting.append(node)
        return reached

    def outputs(self, region: Region) -> list[fx.Node]:
        """The nodes of `region` whose values are used outside."""
        return self.ordered(node for node in region if self.is_output(node, region))

    def is_output(self, node: fx.Node, region: Region) -> bool:
        """Whether something outside `region` uses the value of `node`."""
        return node in self._results or any(user not in region for user in node.users if user.op != "output")

    def entries(self, region: Region) -> list[fx.Node]:
        """The values from outside that `region` uses, in the order in which it reads them."""
        nodes = self.reading_order(region)
        return list(dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in region))

    def reading_order(self, region: Region) -> list[fx.Node]:
        """The nodes of `region` as they are written: what an argument needs stands before it."""
        ends = [*self.outputs(region), *self.ordered(region)]
        found = post_order(ends, lambda node: [n for n in node.all_input_nodes if n in region])
        assert found is not None
        return found


class _Named(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shape_of(nodes: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> str:
    """What a run of nodes does, with values numbered: equal for two calls that do the same."""
    numbers: dict[fx.Node, str] = {}

    def name(node: fx.Node) -> str:
        return numbers.setdefault(node, f"v{len(numbers)}")

    lines = []
    for node in nodes:
        arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: _Named(name(n)))
        lines.append(f"{name(node)} = {node.op} {node.target} {arguments}")
    return "\n".join([*lines, *map(name, outputs)])
