"""The source text of the exact helpers a module uses, with everything they need themselves.

Each helper file is parsed, never rewritten: a definition is copied with the definitions and constants of its file
that it names, and the imports it needs are collected.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ...lowering import exact

__all__ = ["helper_sources"]

_IN_HEADER = frozenset({"torch", "F", "Tensor", "nn", "List", "annotations"})


def helper_sources(targets: Iterable[Any]) -> list[str]:
    """Imports and definitions, in an order in which each stands before its use; empty when no helper is used."""
    imports: dict[str, None] = {}
    definitions: dict[tuple[str, str], str] = {}
    for target in targets:
        module = inspect.getmodule(target) if inspect.isfunction(target) or inspect.isclass(target) else None
        if module is not None and module.__name__.startswith(exact.__name__ + "."):
            _collect(module, target.__name__, definitions, imports)
    return [text for text in ("\n".join(imports), "\n\n\n".join(definitions.values())) if text]


def _collect(module: ModuleType, name: str, definitions: dict[tuple[str, str], str], imports: dict[str, None]) -> None:
    """Add the definition of `name` after all it depends on."""
    key = (module.__name__, name)
    if key in definitions:
        return
    known, imported = _top_level(module)
    node = known[name]
    for used in sorted({child.id for child in ast.walk(node) if isinstance(child, ast.Name)} - {name}):
        if used in known:
            _collect(module, used, definitions, imports)
        elif used in imported and used not in _IN_HEADER:
            statement = imported[used]
            if isinstance(statement, ast.ImportFrom) and statement.level:
                _collect(import_module(f"{exact.__name__}.{statement.module}"), used, definitions, imports)
            else:
                imports[ast.unparse(statement)] = None
    definitions[key] = _text(module, node)


@cache
def _top_level(module: ModuleType) -> tuple[dict[str, ast.stmt], dict[str, ast.Import | ast.ImportFrom]]:
    """Definitions and imports of a module, by the names they make."""
    known: dict[str, ast.stmt] = {}
    imported: dict[str, ast.Import | ast.ImportFrom] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            known[node.name] = node
        elif isinstance(node, ast.Assign):
            known.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            known[node.target.id] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported.update({alias.asname or alias.name: node for alias in node.names})
    return known, imported


def _text(module: ModuleType, node: ast.stmt) -> str:
    lines = inspect.getsource(module).splitlines()
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return re.sub(r"  # (noqa|type:).*", "", "\n".join(lines[first - 1 : node.end_lineno]))
