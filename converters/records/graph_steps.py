"""The steps of a converted module's fx graph as text, without weights, to detect later edits of the module.

A conversion stores the steps in its record; comparing them with the module's present steps finds an edit without
converting the source again. Restored BatchNorms are not steps: write-back folds them first.
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
    """One fx node: its kind, its target, its arguments (other nodes as `%number`) and the `repr` of its module."""

    kind: str
    target: str
    arguments: str
    module: str = ""

    def __str__(self) -> str:
        layer = f" ({self.module.splitlines()[0]})" if self.module else ""
        return "returns" if self.kind == "output" else f"has {self.target!r}{layer}"


def graph_steps(module: fx.GraphModule, restored: Collection[str] = ()) -> tuple[GraphStep, ...]:
    """The nodes of `module` in order. A layer in `restored` is skipped; its users refer to the layer before it."""
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
    """Describe the first step in which a module differs from what its source converts to; "" if there is none."""
    for step, expected in zip_longest(own, original):
        if step != expected:
            return f"the module {step or 'ends'} where its source {expected or 'ends'}"
    return ""


def root_hooks(module: nn.Module) -> int:
    """The number of forward hooks on the module itself, not counting those on its layers."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _changed_calls(parts: Iterable[nn.Module]) -> str:
    """Why layers compute something else than their options say: hooks, a replaced `forward`, a class not of torch."""
    found = []
    for part in parts:
        hooks = root_hooks(part)
        found += [f"{hooks} hooks"] if hooks else []
        found += ["a forward of its own"] if "forward" in vars(part) else []
        kind = type(part)
        is_known = isinstance(part, fx.GraphModule) or kind.__module__.startswith("torch.nn.")
        found += [] if is_known else [f"class {kind.__module__}.{kind.__qualname__}"]
    return "".join(f", {change}" for change in found)
