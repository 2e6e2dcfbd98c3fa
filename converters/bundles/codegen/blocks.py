"""Groups the flat fx graph of a module into blocks nested as its module paths are, ready to become classes.

A block is everything that belongs to one path of the module tree. It can be a class of its own when each of its
calls is one uninterrupted run of nodes and all its calls do the same; otherwise its nodes are left to its parent.
Nodes without weights belong where the exporter says they came from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import fx, nn

from ...records.node_facts import facts_of

__all__ = ["Block", "Call", "build_blocks"]

_CALL_INDEX = re.compile(r"_\d+$")


@dataclass
class Call:
    """One call of a block: its own nodes, what flows in and what flows out."""

    block: Block
    nodes: Sequence[fx.Node]
    inputs: Sequence[fx.Node]
    outputs: Sequence[fx.Node]


@dataclass
class Block:
    """A path of the module tree; `statements` are those of its first call, in order."""

    path: str
    statements: list[fx.Node | Call] = field(default_factory=list)
    inputs: Sequence[fx.Node] = ()
    outputs: Sequence[fx.Node] = ()

    @property
    def children(self) -> list[Block]:
        """Blocks this one calls, each once."""
        found = {id(entry.block): entry.block for entry in self.statements if isinstance(entry, Call)}
        return list(found.values())


class _Owners:
    """The container of every node, and how many nodes use weights below each container."""

    def __init__(self, of: dict[fx.Node, str]) -> None:
        self.of = of
        self.users: Counter[str] = Counter()
        for node, path in of.items():
            while path and _uses_weights(node):
                self.users[path] += 1
                path = path.rpartition(".")[0]


def _uses_weights(node: fx.Node) -> bool:
    return node.op in ("call_module", "get_attr")


def build_blocks(module: fx.GraphModule) -> Block:
    """The root block of `module`."""
    containers = {path for path, child in module.named_modules() if path and type(child) is nn.Module}
    owners = _Owners(_all_owners(module.graph, containers))
    body = [node for node in module.graph.nodes if node.op not in ("placeholder", "output")]
    root = Block("")
    root.statements = _statements(body, "", owners)
    root.inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    result = next(node for node in module.graph.nodes if node.op == "output").args[0]
    root.outputs = list(result) if isinstance(result, tuple | list) else [result]
    return root


def _all_owners(graph: fx.Graph, containers: set[str]) -> dict[fx.Node, str]:
    """The container of every node; one that nothing is said about goes with its users when they agree."""
    owners = {node: _owner(node, containers) for node in graph.nodes}
    for node in reversed(graph.nodes):
        if not facts_of(node).has_scope and not _uses_weights(node):
            of_users = {owners[user] for user in node.users}
            owners[node] = of_users.pop() if len(of_users) == 1 else ""
    return owners


def _owner(node: fx.Node, containers: set[str]) -> str:
    """The container a node belongs to."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target).rpartition(".")[0]
    path = facts_of(node).scope
    while path and path not in containers:
        parent, _, name = path.rpartition(".")
        called_again = f"{parent}.{_CALL_INDEX.sub('', name)}".lstrip(".")
        path = called_again if called_again in containers else parent
    return path


def _statements(nodes: Sequence[fx.Node], path: str, owners: _Owners) -> list[fx.Node | Call]:
    """The statements of the block at `path`: own nodes, and calls of the blocks below it."""
    runs: dict[str, list[list[fx.Node]]] = {}
    order: list[tuple[str, list[fx.Node]]] = []
    for child, group in groupby(nodes, key=lambda node: _child(path, owners.of[node])):
        for run in _separate_calls(list(group)) if child else [list(group)]:
            order.append((child, run))
            if child:
                runs.setdefault(child, []).append(run)
    calls = {child: _calls(child, found, owners) for child, found in runs.items()}
    statements: list[fx.Node | Call] = []
    for child, run in order:
        made = calls.get(child) if child else None
        statements.extend([made.pop(0)] if made else _inlined(run, child, path, owners))
    return statements


def _inlined(run: Sequence[fx.Node], child: str, path: str, owners: _Owners) -> Iterable[fx.Node | Call]:
    """Nodes of a child that cannot be a block: they become the parent's own, deeper blocks are kept."""
    if not child:
        return run
    return _statements(run, child, owners) if child != path else run


def _child(path: str, owner: str) -> str:
    """The path one step below `path` on the way to `owner`; "" for the block's own nodes."""
    if owner == path:
        return ""
    rest = owner.removeprefix(path + ".") if path else owner
    return f"{path}.{rest.partition('.')[0]}".lstrip(".")


def _separate_calls(run: list[fx.Node]) -> list[list[fx.Node]]:
    """Split a run in which a layer is called twice into its unconnected parts: independent calls of one block."""
    targets = [node.target for node in run if node.op == "call_module"]
    if len(targets) == len(set(targets)):
        return [run]
    group: dict[fx.Node, int] = {}
    members: dict[int, list[fx.Node]] = {}
    for index, node in enumerate(run):
        touched = {group[source] for source in node.all_input_nodes if source in group}
        group[node] = index
        members[index] = [node]
        for other in touched:
            for moved in members.pop(other):
                group[moved] = index
                members[index].append(moved)
    parts = [sorted(part, key=run.index) for part in members.values()]
    return sorted(parts, key=lambda part: run.index(part[0]))


def _calls(path: str, runs: list[list[fx.Node]], owners: _Owners) -> list[Call]:
    """The calls of the block at `path`, or none when they are not all alike or there is nothing to own."""
    shapes = {_shape(run) for run in runs}
    users = sum(_uses_weights(node) for run in runs for node in run)
    if len(shapes) != 1 or not users or users != owners.users[path]:
        return []
    block = Block(path, _statements(runs[0], path, owners))
    made = [Call(block, run, *_boundary(run)) for run in runs]
    if len({(len(call.inputs), len(call.outputs)) for call in made}) != 1 or not made[0].outputs:
        return []
    block.inputs, block.outputs = made[0].inputs, made[0].outputs
    return made


def _boundary(run: Sequence[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    inside = set(run)
    inputs = list(dict.fromkeys(s for node in run for s in node.all_input_nodes if s not in inside))
    outputs = [node for node in run if any(user not in inside for user in node.users)]
    return inputs, outputs


def _shape(run: Sequence[fx.Node]) -> str:
    """What a run does, with values numbered: equal for two calls that do the same."""
    numbers: dict[fx.Node, str] = {}

    def name(node: fx.Node) -> str:
        return numbers.setdefault(node, f"v{len(numbers)}")

    lines = []
    for node in run:
        arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: _Named(name(n)))
        lines.append(f"{name(node)} = {node.op} {node.target} {arguments}")
    return "\n".join(lines)


class _Named(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
