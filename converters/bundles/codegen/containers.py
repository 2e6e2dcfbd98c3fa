"""How the members of a module are held and reached: by name, or by number in a list.

`nn.ModuleList` and `nn.Sequential` number their members from 0, so a path `layers.0.conv` is `self.layers[0].conv`.
A number that nobody uses, of a folded BatchNorm or an activation, is held by `nn.Identity()`. Names that are numbers
too far apart, or written as `007`, fit into no list; they are registered and got by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

__all__ = ["Tree", "is_list"]

_MOST_GAPS = 8
"""Unused numbers among the members of a list, beside as many as there are members."""
_LIST_METHODS = frozenset(dir(nn.ModuleList)) - frozenset(dir(nn.Module))


def is_list(names: Iterable[str]) -> bool:
    """Whether the members with these names can be held by a list, among others with names that are not numbers."""
    found = list(names)
    numbers = [name for name in found if name.isdigit()]
    if not numbers or _LIST_METHODS.intersection(found) or any(str(int(name)) != name for name in numbers):
        return False
    return max(map(int, numbers)) < 2 * len(numbers) + _MOST_GAPS


class Tree:
    """The module tree as generated code walks it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def container(self, path: str) -> nn.Module:
        """The module at `path`, "" for the root."""
        return self.module.get_submodule(path) if path else self.module

    def is_list(self, path: str) -> bool:
        """Whether the modules right below `path` are reached by number."""
        return is_list(name for name, _ in self.container(path).named_children())

    def locate(self, path: str, block: str) -> str:
        """The expression for the module or tensor at `path` within a method of the class of `block`."""
        text, current = "self", block
        for name in path.removeprefix(f"{block}." if block else "").split("."):
            text = self._member(text, current, name)
            current = f"{current}.{name}".lstrip(".")
        return text

    def _member(self, owner: str, path: str, name: str) -> str:
        if not name.isdigit():
            return f"{owner}.{name}"
        container = self.container(path)
        if name in container._parameters:
            return f'{owner}.get_parameter("{name}")'
        if name in container._buffers:
            return f'{owner}.get_buffer("{name}")'
        return f"{owner}[{name}]" if self.is_list(path) else f'{owner}.get_submodule("{name}")'
