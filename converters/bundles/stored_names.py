"""Keeps the names a bundle was written with, where a later rtool would give its layers better ones.

Names of weights that a file does not name are found from what is around them, and the finding improves. A bundle's
weights, checkpoints and frozen patterns have the names of its time; so has the module that is rebuilt from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from ..records.graph_steps import graph_steps
from ..records.record import ParameterSource, require_record

__all__ = ["keep_stored_names"]


def keep_stored_names(module: fx.GraphModule, stored: Mapping[str, ParameterSource]) -> None:
    """Give the layers and tensors of a module that was just rebuilt the paths they have in `stored`, in place.

    `stored` is the mapping of the bundle, path -> where in the source graph the tensor came from.
    """
    record = require_record(module)
    moved = _moved(module, record.parameters, stored)
    if not moved:
        return
    held = {new: _detach(module, new) for new in moved}
    for new, old in moved.items():
        _attach(module, old, held[new])
    for node in module.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = moved.get(str(node.target), node.target)
    module.recompile()
    record.parameters = {_renamed(name, moved): source for name, source in record.parameters.items()}
    record.nodes = {_renamed(path, moved): names for path, names in record.nodes.items()}
    record.steps = graph_steps(module)


def _moved(
    module: nn.Module, found: Mapping[str, ParameterSource], stored: Mapping[str, ParameterSource]
) -> dict[str, str]:
    """Path now -> path in the bundle, of layers and of tensors that no layer owns."""
    waiting: dict[ParameterSource, list[str]] = {}
    for name, source in stored.items():
        if name not in found:
            waiting.setdefault(source, []).append(name)
    moved: dict[str, str] = {}
    for name, source in found.items():
        names = waiting.get(source)
        if name in stored or not names:
            continue
        old = names.pop(0)
        owner = name.rpartition(".")[0]
        if owner and type(module.get_submodule(owner)) is not nn.Module:
            moved[owner] = old.rpartition(".")[0]
        else:
            moved[name] = old
    return moved


def _detach(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    container = module.get_submodule(owner)
    held = getattr(container, name)
    delattr(container, name)
    while owner and not [*container.children(), *container.parameters(), *container.buffers()]:
        path = owner
        owner, _, name = path.rpartition(".")
        container = module.get_submodule(owner)
        delattr(container, name)
    return held


def _attach(module: nn.Module, path: str, held: Any) -> None:
    *owners, name = path.split(".")
    container = module
    for owner in owners:
        if not hasattr(container, owner):
            container.add_module(owner, nn.Module())
        container = getattr(container, owner)
    if isinstance(held, nn.Module):
        container.add_module(name, held)
    elif isinstance(held, nn.Parameter):
        container.register_parameter(name, held)
    else:
        container.register_buffer(name, held)


def _renamed(name: str, moved: Mapping[str, str]) -> str:
    owner, _, attribute = name.rpartition(".")
    return moved.get(name) or (f"{moved[owner]}.{attribute}" if owner in moved else name)
