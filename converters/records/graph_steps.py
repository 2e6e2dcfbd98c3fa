"""What the fx graph of a converted module does, node by node and weights aside, as text that can be compared and kept.

A conversion keeps the steps of its module in the record, so that an edit made since is found without converting the
source once more. Restored BatchNorms do not count: they are folded away before anything is written back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import fx, nn

__all__ = ["GraphStep", "first_difference", "graph_steps", "root_hooks"]


@dataclass(frozen=True)
class GraphStep:
    """What one fx node does: its kind, its target, its arguments with nodes by number, and its module, described."""

    kind: str
    target: str
    arguments: str
    module: str = ""

    def __str__(self) -> str:
        layer = f" ({self.module.splitlines()[0]})" if self.module else ""
        return "returns" if self.kind == "output" else f"has {self.target!r}{layer}"


def graph_steps(module: fx.GraphModule, restored: Collection[str] = ()) -> tuple[GraphStep, ...]:
    """The nodes of `module` in order, without the layers in `restored`, whose readers read the layer before them."""
    numbers: dict[fx.Node, str] = {}
    steps = [GraphStep("root", "forward", "", change)] if (change := _changed_calls([module])) else []
    for node in module.graph.nodes:
        if node.op == "call_module" and node.target in restored:
            numbers[node] = numbers[node.all_input_nodes[0]]
            continue
        numbers[node] = f"%{len(steps)}"
        arguments = fx.map_arg((node.args, node.kwargs), lambda entry: numbers[entry])
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        described = "" if layer is None else repr(layer) + _changed_calls(layer.modules())
        steps.append(GraphStep(node.op, _name(node.target), repr(arguments), described))
    return tuple(steps)


def first_difference(own: Iterable[GraphStep], original: Iterable[GraphStep]) -> str:
    """The first step in which a module is not what its source converts to; "" where there is none."""
    for step, expected in zip_longest(own, original):
        if step != expected:
            return f"the module {step or 'ends'} where its source {expected or 'ends'}"
    return ""


def root_hooks(module: nn.Module) -> int:
    """How many forward hooks the module itself has, apart from those of its layers."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _changed_calls(parts: Iterable[nn.Module]) -> str:
    """What makes a layer give something else than one of the same options: hooks, another class or `forward`."""
    found = []
    for part in parts:
        hooks = root_hooks(part)
        found += [f"{hooks} hooks"] if hooks else []
        found += ["a forward of its own"] if "forward" in vars(part) else []
        kind = type(part)
        is_known = isinstance(part, fx.GraphModule) or kind.__module__.startswith("torch.nn.")
        found += [] if is_known else [f"class {kind.__module__}.{kind.__qualname__}"]
    return "".join(f", {change}" for change in found)
