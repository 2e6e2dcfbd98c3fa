"""Groups the flat fx graph of a module into blocks nested as its module paths are, ready to become classes.

A block is a path of the module tree that can be called: its weights, and what lies between and belongs to them. Which
nodes those are follows from the names of the weights and the data flow alone, so that it does not matter whether the
file says where its nodes came from. A path that cannot be called holds members for the blocks that use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from .calls import Owners, regions_of
from .flow import Flow, Region, post_order, shape_of, uses_weights
from .growth import grown

__all__ = ["Block", "Call", "Entry", "build_blocks", "inputs_of", "results_of"]


@dataclass(eq=False)
class Call:
    """One call of a block: its own nodes, what flows in and what flows out."""

    block: Block
    nodes: Sequence[fx.Node]
    inputs: Sequence[fx.Node]
    outputs: Sequence[fx.Node]


Entry = fx.Node | Call


@dataclass(eq=False)
class Block:
    """A path of the module tree; `statements` are those of its first call, each after what it uses."""

    path: str
    nodes: Sequence[fx.Node]
    inputs: Sequence[fx.Node]
    outputs: Sequence[fx.Node]
    statements: list[Entry] = field(default_factory=list)

    @property
    def children(self) -> dict[str, Block]:
        """Blocks this one calls, by path."""
        return {entry.block.path: entry.block for entry in self.statements if isinstance(entry, Call)}


def inputs_of(entry: Entry) -> Sequence[fx.Node]:
    """The values that a statement uses, in the order it names them."""
    return entry.inputs if isinstance(entry, Call) else entry.all_input_nodes


def results_of(entry: Entry) -> Sequence[fx.Node]:
    """The values that a statement makes."""
    return entry.outputs if isinstance(entry, Call) else [entry]


def build_blocks(module: fx.GraphModule) -> Block:
    """The root block of `module`."""
    flow = Flow(module.graph)
    root = Block("", flow.body, flow.inputs, flow.results)
    _Builder(module, flow).fill(root, 1)
    return root


class _Builder:
    def __init__(self, module: fx.GraphModule, flow: Flow) -> None:
        self.module = module
        self.flow = flow
        self.owners = Owners(flow.body)

    def fill(self, block: Block, times: int) -> None:
        """Find the statements of `block`, which is called `times` times, and of all blocks below."""
        nodes = set(block.nodes)
        barred: set[str] = set()
        while True:
            calls = self._calls(block, nodes, times, barred)
            statements = _in_order(block, nodes, calls)
            if statements is not None:
                break
            barred.add(_in_circle(calls))
        block.statements = statements
        for child in block.children.values():
            count = sum(isinstance(entry, Call) and entry.block is child for entry in statements)
            self.fill(child, times * count)

    def _calls(self, block: Block, nodes: Region, times: int, barred: set[str]) -> list[Call]:
        """The calls of the blocks right below `block`."""
        found = dict(self._callable(block.path, nodes, times, barred))
        free = {node for node in nodes if not uses_weights(node)}.difference(*(r for rs in found.values() for r in rs))
        calls: list[Call] = []
        for path in sorted(found, key=lambda path: self.flow.first(found[path][0])):
            made, free = self._made(path, found[path], free)
            calls += made
        return calls

    def _callable(
        self, path: str, nodes: Region, times: int, barred: set[str]
    ) -> Iterator[tuple[str, list[set[fx.Node]]]]:
        """Paths below `path` that can be called, with the nodes of each call; where one cannot, those below it."""
        container = self.module.get_submodule(path) if path else self.module
        for name, child in container.named_children():
            below = f"{path}.{name}".lstrip(".")
            if type(child) is not nn.Module:
                continue
            regions = [] if below in barred else regions_of(below, nodes, self.flow, self.owners, times)
            if regions:
                yield below, regions
            else:
                yield from self._callable(below, nodes, times, barred)

    def _is_sequence(self, path: str) -> bool:
        """Whether `path` only numbers its members: `nn.Sequential` adds no shortcut, but its only block may."""
        members = dict(self.module.get_submodule(path).named_children())
        is_block = len(members) == 1 and type(next(iter(members.values()))) is nn.Module
        return bool(members) and all(name.isdigit() for name in members) and not is_block

    def _made(self, path: str, regions: list[set[fx.Node]], free: set[fx.Node]) -> tuple[list[Call], set[fx.Node]]:
        """The calls of `path`, all alike, and what is left of the nodes that belong to nobody."""
        for extend in (True, False):
            left, wholes = set(free), list[set[fx.Node]]()
            for region in regions:
                wholes.append(
                    grown(self.flow, region, left, shortcuts=not self._is_sequence(path)) if extend else region
                )
                left -= wholes[-1]
            runs = [self.flow.reading_order(whole) for whole in wholes]
            ends = [self.flow.outputs(whole) for whole in wholes]
            if len({shape_of(run, outputs) for run, outputs in zip(runs, ends, strict=True)}) == 1:
                entries = [self.flow.entries(whole) for whole in wholes]
                block = Block(path, runs[0], entries[0], ends[0])
                calls = zip(runs, entries, ends, strict=True)
                return [Call(block, run, inputs, outputs) for run, inputs, outputs in calls], left
        return [], free


def _in_order(block: Block, nodes: Region, calls: Sequence[Call]) -> list[Entry] | None:
    """Calls and the other nodes, each after what it uses; None when the calls need one another in a circle."""
    maker: dict[fx.Node, Entry] = {node: node for node in nodes}
    for call in calls:
        maker.update(dict.fromkeys(call.nodes, call))
    ends = [maker[node] for node in (*block.outputs, *block.nodes) if node in maker]
    return post_order(ends, lambda entry: [maker[node] for node in inputs_of(entry) if node in maker])


def _in_circle(calls: Sequence[Call]) -> str:
    """The path of a block that needs what needs it, so that only its members can be called."""
    for call in reversed(calls):
        inside, seen = set(call.nodes), set[fx.Node]()
        waiting = [node for node in call.inputs if node not in inside]
        members = {node: set(other.nodes) for other in calls for node in other.nodes}
        while waiting:
            node = waiting.pop()
            if node in inside:
                return call.block.path
            if node not in seen:
                seen.add(node)
                waiting += [n for m in members.get(node, {node}) for n in m.all_input_nodes]
    raise AssertionError("a circle without a block in it")
