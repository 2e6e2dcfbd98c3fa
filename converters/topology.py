"""Whether a converted module still computes what its source graph does, weights aside: what write-back relies on.

A module may be edited like any `torch.fx.GraphModule`: layers added, replaced, called in another order. Its fx graph
is compared, node by node, with that of a fresh conversion of the source. Restored BatchNorms do not count: they are
folded away before anything is written back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
from torch import fx, nn

from .conversion import onnx_to_torch
from .record import record_of

__all__ = ["difference_from_source", "unplaced_parameter"]


@dataclass(frozen=True)
class _Step:
    """What one fx node does: its kind, its target, its arguments with nodes by number, and its module, described."""

    kind: str
    target: Any
    arguments: Any
    module: str = ""

    def __str__(self) -> str:
        name = self.target if isinstance(self.target, str) else getattr(self.target, "__name__", str(self.target))
        layer = f" ({self.module.splitlines()[0]})" if self.module else ""
        return "returns" if self.kind == "output" else f"has {name!r}{layer}"


def unplaced_parameter(module: fx.GraphModule) -> str:
    """A parameter that the source graph has no place for, or one of its own that `module` lacks; "" where none is."""
    record = record_of(module)
    restored = tuple(f"{entry.module}." for entry in record.restored)
    own = (name for name, _ in module.named_parameters() if not name.startswith(restored))
    added = [name for name in own if name not in record.parameters]
    if added:
        return f"the source graph has no place for {added[0]!r} (and {len(added) - 1} more)"
    there = module.state_dict()
    missing = [name for name in record.parameters if name not in there]
    return f"the module no longer has {missing[0]!r} (and {len(missing) - 1} more)" if missing else ""


def difference_from_source(module: fx.GraphModule, source: onnx.ModelProto | Path) -> str:
    """The first thing in which `module` is not what `source` converts to, weights aside; "" where there is none."""
    unplaced = unplaced_parameter(module)
    if unplaced:
        return unplaced
    for own, original in zip_longest(_steps(module), _steps(onnx_to_torch(source))):
        if own != original:
            return f"the module {own or 'ends'} where its source {original or 'ends'}"
    return ""


def _steps(module: fx.GraphModule) -> list[_Step]:
    """The nodes of `module` in order, without restored BatchNorms, whose readers read the layer before them."""
    restored = {entry.module for entry in record_of(module).restored}
    numbers: dict[fx.Node, str] = {}
    steps: list[_Step] = []
    for node in module.graph.nodes:
        if node.op == "call_module" and node.target in restored:
            numbers[node] = numbers[node.all_input_nodes[0]]
            continue
        numbers[node] = f"%{len(steps)}"
        arguments = fx.map_arg((node.args, node.kwargs), lambda entry: numbers[entry])
        layer = module.get_submodule(node.target) if node.op == "call_module" else None
        steps.append(_Step(node.op, node.target, arguments, "" if layer is None else _described(layer)))
    return steps


def _described(layer: nn.Module) -> str:
    """Class and options; a hook may change what a layer gives, so it counts."""
    hooks = len(layer._forward_hooks) + len(layer._forward_pre_hooks)
    return f"{layer!r}, {hooks} hooks" if hooks else repr(layer)
