"""Public names that load their module on first use, so that `import rtool` and `rtool --help` stay fast.

A room's `__init__` lists its public names in one table, `{"name": ".module"}`, and installs the two hooks that
`lazy_exports` makes from it (module `__getattr__` and `__dir__`, PEP 562). A module must not share its name with a
function it exports: the import system would bind the name to the module instead of the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of `package`; `table` maps each public name to its module."""

    def getattr_(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(table[name], package), name)

    def dir_() -> list[str]:
        return sorted(table)

    return getattr_, dir_
