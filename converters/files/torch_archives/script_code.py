"""The source text inside a TorchScript file: which operators it calls, found by parsing it, never by running it.

TorchScript's source is a subset of Python. torch compiles it when it opens the file, and may run parts of it
(`__setstate__`); an operator can be reached as `torch.save`, as `ops.aten.save`, as a method of any value (`x.save()`)
or as a text (`getattr(x, "save")`). So every name in the source is looked at, wherever it stands: it must be an
allowed operator, or a name that the file itself defines and that is not the name of another operator.

Python's reader and torch's must see the same text. So the source is ASCII, has no comments, no line joining and no
strings but plain double-quoted ones, as torch writes it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from .operators import ALLOWED_ATEN, ALLOWED_PRIM

__all__ = ["CodeError", "check_code", "defined_names", "parse_code"]

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TEXT = re.compile(rf'(?:{_STRING}|[^"\'#\\\x00-\x09\x0b-\x1f\x7f-\xff])*')
_JOINED = re.compile(r'[A-Za-z0-9_"]"')
_WORD = re.compile(rf"{_STRING}|[A-Za-z_]\w*", re.ASCII)

_CALLS = frozenset(("annotate", "unchecked_cast", "uninitialized", "int", "float", "bool", "str", "range", "len"))
"""Functions without a namespace that torch writes; `getattr` with a constant name beside them."""
_FORBIDDEN_METHODS = frozenset(("__setstate__", "__getstate__", "__del__", "__exit__", "__enter__"))
_ROOTS = frozenset(("torch", "ops", "__torch__", "CONSTANTS"))
_BASES = frozenset(("Module", "NamedTuple", "Enum", "Interface", "ModuleInterface"))
_STATEMENTS = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AnnAssign,
    ast.AugAssign, ast.For, ast.While, ast.If, ast.Expr, ast.Pass, ast.Break, ast.Continue, ast.Assert, ast.Raise,
)  # fmt: skip
_EXPRESSIONS = (
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call, ast.Constant, ast.Attribute, ast.Subscript,
    ast.Name, ast.List, ast.Tuple, ast.Dict, ast.Slice, ast.keyword, ast.expr_context, ast.boolop, ast.operator,
    ast.unaryop, ast.cmpop, ast.ListComp, ast.comprehension, ast.Starred,
)  # fmt: skip


class CodeError(ValueError):
    """The source calls something that a model does not need, or is not written as torch writes it."""


def defined_names(trees: Iterable[ast.Module]) -> frozenset[str]:
    """Functions, methods, attributes and classes that the file itself defines."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign):
                found |= {_written(node.target)}
            elif isinstance(node, ast.Assign):
                found |= {_written(target) for target in node.targets}
    return frozenset(found - {""})


def parse_code(text: bytes) -> ast.Module:
    """Parse one file of source.

    Raises:
        CodeError: it is not written as torch writes it.
    """
    try:
        source = text.decode("ascii")
    except UnicodeDecodeError as error:
        raise CodeError("it has characters outside ASCII") from error
    if not _TEXT.fullmatch(source) or _JOINED.search(re.sub(_STRING, '"', source)):
        raise CodeError("it has comments, joined lines or strings that torch does not write")
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CodeError(f"it cannot be parsed ({error})") from error


def check_code(text: bytes, tree: ast.Module, defined: frozenset[str], forbidden: frozenset[str]) -> None:
    """Refuse source that reaches an operator outside the allow-list.

    Args:
        text: the source, as `parse_code` accepted it.
        tree: what it parses to.
        defined: what all files of source define together.
        forbidden: names of operators that are not allowed, see `forbidden_operators`.

    Raises:
        CodeError: names what it calls.
    """
    words = {word[0] for word in _WORD.finditer(text.decode("ascii"))}
    reached = sorted(words & (forbidden - _CALLS - _HARMLESS))
    if reached:
        raise CodeError(f"it names the operator {reached[0]!r}, which no model needs")
    for node in ast.walk(tree):
        if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
            raise CodeError(f"it has a statement that torch does not write ({type(node).__name__})")
        if isinstance(node, ast.FunctionDef) and (node.decorator_list or node.name in _FORBIDDEN_METHODS):
            raise CodeError(f"it defines {node.name}, which runs while the file is opened")
        if isinstance(node, ast.ClassDef):
            _check_class(node)
        elif isinstance(node, ast.Attribute):
            _check_attribute(node, defined)
        elif isinstance(node, ast.Call):
            _check_call(node, defined, forbidden)


_HARMLESS = frozenset(("id", "value", "Guard", "profile"))
"""Operators of those names do nothing outside the graph; weights are called so too."""


def _check_class(node: ast.ClassDef) -> None:
    bases = {base.id if isinstance(base, ast.Name) else "" for base in node.bases}
    if not bases <= _BASES or node.keywords or node.decorator_list:
        raise CodeError(f"class {node.name} is of a kind that is not read")


def _check_attribute(node: ast.Attribute, defined: frozenset[str]) -> None:
    names = _dotted(node)
    root = names[0] if names else ""
    if root == "torch":
        good = len(names) == 2 and (names[1] in ALLOWED_ATEN or names[1] in ALLOWED_PRIM)
    elif root == "ops":
        known = {"aten": ALLOWED_ATEN, "prim": ALLOWED_PRIM}
        good = (len(names) == 2 and names[1] in known) or (len(names) == 3 and names[2] in known.get(names[1], ()))
    elif root == "__torch__":
        good = names[1:3] != ["torch", "classes"]
    elif root == "CONSTANTS":
        good = len(names) == 2 and re.fullmatch(r"c\d+", names[1]) is not None
    else:
        good = _is_known(node.attr, defined)
    if not good:
        raise CodeError(f"it uses {'.'.join(names) if names else node.attr}, which is not an operator on tensors")


def _check_call(node: ast.Call, defined: frozenset[str], forbidden: frozenset[str]) -> None:
    function = node.func
    if isinstance(function, ast.Attribute):
        return
    if not isinstance(function, ast.Name):
        raise CodeError("it calls the result of an expression")
    if function.id == "getattr":
        attribute = node.args[1] if len(node.args) == 2 else None
        text = attribute.value if isinstance(attribute, ast.Constant) else None
        if not isinstance(text, str) or not _is_known(text, defined) or text in forbidden - _HARMLESS:
            raise CodeError(f"it asks for the attribute {str(text)[:60]!r}")
    elif function.id not in _CALLS and function.id not in defined:
        raise CodeError(f"it calls {function.id}, which is not an operator on tensors")


def _is_known(name: str, defined: frozenset[str]) -> bool:
    return name.isdigit() or name in defined or name in ALLOWED_ATEN or name in ALLOWED_PRIM


def _dotted(node: ast.expr) -> list[str]:
    """The parts of a dotted name that begins at one of torch's own roots, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) and node.id in _ROOTS else []


def _written(node: ast.expr) -> str:
    """The name that an assignment in a class or function gives, `__annotations__["0"]` included."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return ""
