"""What the lowering knows about an fx node of a converted module: where it comes from and what holds for its value.

Kept in `fx.Node.meta` under one key, which only this file knows; copies of a graph keep it. The facts help to name,
group and fold; a node without them (one that a user inserted) has the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx  # serving imports this room and must not load torch

__all__ = ["NodeFacts", "facts_of", "set_facts"]

_KEY = "rtool"


@dataclass(frozen=True)
class NodeFacts:
    """Facts about one fx node."""

    onnx_node: str = ""
    """Name of the ONNX node that it stands for, or for a part of which."""
    scope: str = ""
    """Path of the module that called the ONNX node in the exporter's program."""
    has_scope: bool = True
    """Whether the ONNX file states that scope; without it "" means unknown, not the root."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """Module path -> class name, for the scopes around the node, where the exporter states them."""
    rank: int | None = None
    """Number of axes of the value, where the operator fixes it."""
    symbol: str | None = None
    """Of a number read from a shape: the symbol of that dimension in the ONNX file."""
    nonnegative: bool = False
    """Of a number: whether it is certainly 0 or more."""


def facts_of(node: fx.Node) -> NodeFacts:
    """What is known about `node`; the defaults where nothing is."""
    facts = node.meta.get(_KEY)
    return facts if isinstance(facts, NodeFacts) else NodeFacts()


def set_facts(node: fx.Node, facts: NodeFacts) -> None:
    """Replace what is known about `node`, in place."""
    node.meta[_KEY] = facts
