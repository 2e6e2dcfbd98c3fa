"""Public names that load their module on first use, so that `import rtool` and `rtool --help` stay fast.

A room's `__init__` states its public names in one table, `{"name": ".module"}`, and installs the two hooks
of PEP 562 made from it. A module is never named like a function it exports: the import system would put the
module in the function's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of `package`, whose public names come from the modules in `table`."""

    def getattr_(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(table[name], package), name)

    def dir_() -> list[str]:
        return sorted(table)

    return getattr_, dir_
