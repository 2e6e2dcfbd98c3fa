"""Blocks that pass one value through their numbered members in order: they need no class, `nn.Sequential` does it.

Operations without weights between the members become modules, in the place of the numbers that no member has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from .blocks import Block, Call, Entry, inputs_of, results_of
from .containers import Tree
from .parameters import Part, marked_parts
from .text import Written, expression

__all__ = ["chain_items"]

Parts = tuple[Part, ...]
_IDENTITY: Parts = ("nn.Identity()",)
_MODULES: dict[Any, tuple[str, int]] = {
    F.adaptive_avg_pool2d: ("nn.AdaptiveAvgPool2d", 2),
    F.avg_pool2d: ("nn.AvgPool2d", 4),
    F.elu: ("nn.ELU", 2),
    F.gelu: ("nn.GELU", 1),
    F.hardsigmoid: ("nn.Hardsigmoid", 1),
    F.hardswish: ("nn.Hardswish", 1),
    F.leaky_relu: ("nn.LeakyReLU", 2),
    F.max_pool2d: ("nn.MaxPool2d", 5),
    F.mish: ("nn.Mish", 1),
    F.relu: ("nn.ReLU", 1),
    F.relu6: ("nn.ReLU6", 1),
    F.silu: ("nn.SiLU", 1),
    torch.sigmoid: ("nn.Sigmoid", 1),
    torch.tanh: ("nn.Tanh", 1),
}
"""Function -> its module, and for how many positional arguments, the tensor among them, both mean the same."""


def chain_items(
    block: Block, tree: Tree, construct: Callable[[Block], Parts], layer: Callable[[str], Parts]
) -> tuple[Parts, ...] | None:
    """What makes the members of `nn.Sequential` for `block`; None when it is no such chain."""
    names = [name for name, _ in tree.container(block.path).named_children()]
    has_tensors = [*tree.container(block.path).named_parameters(recurse=False)]
    if has_tensors or not tree.is_list(block.path) or not all(name.isdigit() for name in names):
        return None
    if len(block.inputs) != 1 or len(block.outputs) != 1:
        return None
    parts, between, members = list[Parts](), list[Parts](), 0
    current = block.inputs[0]
    for entry in block.statements:
        if list(inputs_of(entry)) != [current] or len(results_of(entry)) != 1:
            return None
        current = results_of(entry)[0]
        number = _number(entry, block.path)
        if number is None:
            made = _module(entry)
            if not made:
                return None
            between.append(made)
            continue
        gap = number - len(parts) - len(between)
        if gap < 0:
            return None
        made_member = construct(entry.block) if isinstance(entry, Call) else layer(str(entry.target))
        parts += [*[_IDENTITY] * gap, *between, made_member]
        between, members = [], members + 1
    if current is not block.outputs[0] or members != len(names):
        return None
    return (*parts, *between)


def _number(entry: Entry, path: str) -> int | None:
    """Which member of `path` a statement calls; None for an operation without weights."""
    if not isinstance(entry, Call) and entry.op != "call_module":
        return None
    called = entry.block.path if isinstance(entry, Call) else str(entry.target)
    name = called.removeprefix(f"{path}.")
    return int(name) if name.isdigit() else -1


def _module(entry: Entry) -> Parts:
    """The module that does what a function does; nothing where there is none."""
    if not isinstance(entry, fx.Node) or entry.op != "call_function":
        return ()
    if entry.target is torch.flatten and len(entry.args) == 2 and not entry.kwargs:
        return ("nn.Flatten()" if entry.args[1] == 1 else f"nn.Flatten({entry.args[1]})",)
    kind, most = _MODULES.get(entry.target, ("", 0))
    if not kind or len(entry.args) > most or not isinstance(entry.args[0], fx.Node):
        return ()
    mark = "_tensor_"
    text = expression(entry, {entry.args[0]: Written(mark)}, lambda path: path).text
    return marked_parts(f"{kind}({text.partition(mark)[2].removeprefix(', ')}")
