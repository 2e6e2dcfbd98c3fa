"""Where a module ends: a region between weights takes in the operations that belong to it though they have none.

A module is the connected part of the graph between its first and its last weight, and further

- the activation behind it,
- operations behind it that bring its values together with one another or with what it was given: the sum with a
  shortcut, the product of a gate with what it gates. Operations in front of it come along when such an end needs them,
- operations in front of it that need nothing but what it is given anyway, or that part from one value and meet again
  before it: a normalisation written out, the merging of patches.

A region never takes in a weight, nor an operation of another module.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from .flow import Flow, Region, uses_weights

__all__ = ["grown", "is_activation"]

_ACTIVATIONS = frozenset(
    {"celu", "clamp", "clip", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu"}
    | {"relu6", "selu", "sigmoid", "silu", "softplus", "tanh"}
)
_ELEMENTWISE = _ACTIVATIONS | {"add", "erf", "exp", "mul", "neg", "pow", "sub", "truediv"}
_FURTHEST = 12
"""Nodes behind a region among which its end is looked for."""
_LONGEST_LEAD = 4
"""Nodes in front of a region that may come along."""


def is_activation(node: fx.Node) -> bool:
    """Whether the node is a nonlinearity of one tensor."""
    return _name(node) in _ACTIVATIONS and len(node.all_input_nodes) == 1


def grown(flow: Flow, region: Region, free: Region, *, shortcuts: bool = True) -> set[fx.Node]:
    """`region` with what belongs to it of the nodes in `free`; without `shortcuts` it joins no value it was given."""
    found = set(region)
    while True:
        more = _before(flow, found, free) or _behind(flow, found, free, shortcuts=shortcuts)
        if not more:
            return found
        found |= more


def _before(flow: Flow, region: Region, free: Region) -> set[fx.Node]:
    """Operations in front that make the inputs fewer, or that part and meet again in front of the region."""
    entries = flow.entries(region)
    for node in entries:
        if _is_private(node, region, free) and all(n in entries for n in node.all_input_nodes):
            return {node}
    for entry in entries:
        taken: set[fx.Node] = set()
        for _ in range(_FURTHEST):
            inside = region | taken
            ready = [n for n in flow.entries(inside) if _is_private(n, inside, free) and (taken or n is entry)]
            if not ready:
                break
            taken.add(flow.ordered(ready)[-1])
            is_meeting = any(len(node.all_input_nodes) > 1 for node in taken)
            if is_meeting and len(flow.entries(region | taken)) <= len(entries):
                return taken
    return set()


def _behind(flow: Flow, region: Region, free: Region, *, shortcuts: bool) -> set[fx.Node]:
    """The operations up to the next end of the region; none when there is no such end."""
    outputs = flow.outputs(region)
    leads = _leads(flow, region, free)
    given = set(leads) | set(flow.entries(region))
    taken: set[fx.Node] = set()
    for _ in range(_FURTHEST):
        inside = region | taken
        node = _next(flow, inside, given, free)
        if node is None:
            return set()
        taken |= {node, *_numbers_for(node, inside | given)}
        if flow.outputs(region | taken) != [node]:
            continue
        if len(taken) == 1 and is_activation(node) and len(outputs) == 1:
            return taken
        used = {n for t in taken for n in t.all_input_nodes}
        joins_given = bool(used & given)
        if joins_given and not shortcuts:
            return set()
        if len(node.all_input_nodes) > 1 and (
            joins_given or len(outputs) > 1 or all(_name(n) in _ELEMENTWISE for n in taken)
        ):
            return taken.union(*(leads[n] for n in used if n in leads))
    return set()


def _next(flow: Flow, inside: Region, given: Collection[fx.Node], free: Region) -> fx.Node | None:
    """The first operation that uses an output of the region and else only what is known there."""
    users = {user for node in flow.outputs(inside) for user in node.users if user in free and user not in inside}
    for user in flow.ordered(users):
        numbers = _numbers_for(user, set(inside) | set(given))
        if all(n in inside or n in given or n in numbers for n in user.all_input_nodes):
            return user
    return None


def _numbers_for(node: fx.Node, known: Region) -> set[fx.Node]:
    """Sizes that `node` is called with, which can be asked of what is known."""
    asked = (n for n in node.all_input_nodes if n.op == "call_method" and n.target == "size" and len(n.users) == 1)
    return {n for n in asked if n not in known and all(source in known for source in n.all_input_nodes)}


def _leads(flow: Flow, region: Region, free: Region) -> dict[fx.Node, set[fx.Node]]:
    """Values further in front, each with the operations that lead one after the other from it into the region."""
    found: dict[fx.Node, set[fx.Node]] = {}
    for entry in flow.entries(region):
        node, chain = entry, set[fx.Node]()
        while len(chain) < _LONGEST_LEAD and len(node.all_input_nodes) == 1 and _is_private(node, region | chain, free):
            chain = {*chain, node}
            node = node.all_input_nodes[0]
            found.setdefault(node, chain)
    return found


def _is_private(node: fx.Node, region: Region, free: Region) -> bool:
    """Whether only the region uses a node that could belong to it."""
    return node in free and not uses_weights(node) and all(user in region for user in node.users)


def _name(node: fx.Node) -> str:
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")).rstrip("_")
