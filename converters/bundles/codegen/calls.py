"""The calls of a module path: which nodes belong to each, found from the weights they use and the data flow.

A path can be called when the part of the graph between its weights holds no weight of another path, and when all its
calls do the same. Otherwise it only holds members, which its parent uses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from torch import fx

from .flow import Flow, Region, uses_weights

__all__ = ["Owners", "regions_of"]


class Owners:
    """The container of every node that uses weights, and how many such nodes lie below each container."""

    def __init__(self, nodes: Sequence[fx.Node]) -> None:
        self.of = {node: str(node.target).rpartition(".")[0] for node in nodes if uses_weights(node)}
        self.users: Counter[str] = Counter()
        for owner in self.of.values():
            path = owner
            while path:
                self.users[path] += 1
                path = path.rpartition(".")[0]

    def below(self, path: str, nodes: Region) -> list[fx.Node]:
        """The nodes that use weights of `path` or below it."""
        return [n for n in nodes if n in self.of and (self.of[n] == path or self.of[n].startswith(f"{path}."))]


def regions_of(path: str, nodes: Region, flow: Flow, owners: Owners, times: int) -> list[set[fx.Node]]:
    """The nodes of each call of `path` within `nodes`, which are those of one of `times` calls of its parent.

    Only what lies between the weights; empty when the path cannot be called.
    """
    users = flow.ordered(owners.below(path, nodes))
    if not users or len(users) * times != owners.users[path]:
        return []
    for calls in _groupings(users, nodes, flow):
        regions = [flow.between([*call, *_first_uses(call, nodes, flow)], nodes) for call in calls]
        is_apart = sum(map(len, regions)) == len(set().union(*regions))
        if is_apart and all(_is_own(region, call) for region, call in zip(regions, calls, strict=True)):
            return regions
    return []


def _first_uses(call: Sequence[fx.Node], nodes: Region, flow: Flow) -> list[fx.Node]:
    """Where tensors that the call reads, or what is calculated from them alone, meet the data."""
    found: dict[fx.Node, None] = {}
    waiting = [node for node in call if node.op == "get_attr"]
    while waiting:
        for user in waiting.pop().users:
            if user not in nodes or user in found:
                continue
            if not flow.is_constant(user):
                found[user] = None
            elif not uses_weights(user):
                waiting.append(user)
    return [node for node in found if not uses_weights(node)]


def _is_own(region: Region, call: Sequence[fx.Node]) -> bool:
    own = set(call)
    return all(node in own for node in region if uses_weights(node))


def _groupings(users: Sequence[fx.Node], nodes: Region, flow: Flow) -> list[list[list[fx.Node]]]:
    """Ways to see `users` as calls: as many as every layer is called, else one that calls layers again."""
    counts = Counter(str(node.target) for node in users)
    times = math.gcd(*counts.values())
    found = []
    if times > 1:
        groups = _grouped(users, nodes, {target: count // times for target, count in counts.items()})
        if len(groups) == times:
            found.append([flow.ordered(group) for group in groups])
    return [*found, [list(users)]]


def _grouped(users: Sequence[fx.Node], nodes: Region, most: dict[str, int]) -> list[list[fx.Node]]:
    """Put each node to those that its input comes from, unless a call would use a layer more often than it does."""
    groups: list[list[fx.Node]] = []
    sources: list[set[fx.Node]] = []

    def joined(i: int, j: int) -> bool:
        counts = Counter(str(node.target) for node in (*groups[i], *groups[j]))
        if any(count > most[target] for target, count in counts.items()):
            return False
        groups[i] += groups.pop(j)
        sources[i] |= sources.pop(j)
        return True

    for user in users:
        nearest = _nearest(user, nodes)
        groups.append([user])
        sources.append(set(user.all_input_nodes))
        own = len(groups) - 1
        for index in reversed(range(own)):
            if nearest & set(groups[index]) and joined(index, own):
                own = index
    for first in range(len(groups)):
        for second in reversed(range(first + 1, len(groups))):
            if second < len(groups) and sources[first] & sources[second]:
                joined(first, second)
    return groups


def _nearest(node: fx.Node, nodes: Region) -> set[fx.Node]:
    """The nodes with weights that the input of `node` comes from, with no other weights in between."""
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        current = waiting.pop()
        if current in seen or current not in nodes:
            continue
        seen.add(current)
        if uses_weights(current):
            found.add(current)
        else:
            waiting += current.all_input_nodes
    return found
