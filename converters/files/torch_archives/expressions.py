"""The texts of an exported program that torch evaluates as Python: sizes, guards and the shapes of nested inputs.

torch hands `expr_str` to sympy, which evaluates it, and puts guards into the source of a function. Each is parsed here
(`ast`, which runs nothing) and refused unless it is arithmetic on named sizes; guards are written again from what was
parsed.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Collection
from typing import Any

__all__ = ["TextError", "check_expression", "check_guard", "check_tree", "is_identifier"]

_LONGEST = 4000
_DEEPEST = 60
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}", re.ASCII)
_KEY = re.compile(r"[\w .:/\-]{1,200}", re.ASCII)

_SYMPY = """
Add Mul Pow Max Min Mod Eq Ne Equality Unequality Lt Le Gt Ge LessThan StrictLessThan GreaterThan StrictGreaterThan And
Or Not Integer Float Rational floor ceiling Abs FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt
CeilDiv IntTrueDiv FloatTrueDiv TruncToFloat TruncToInt RoundToInt ToFloat Identity IsNonOverlappingAndDenseIndicator
Symbol
"""
_SYMBOLIC_CALLS = frozenset(_SYMPY.split())
_SYMBOLIC_NAMES = frozenset(("true", "false", "oo"))
_ASSUMPTIONS = frozenset(("positive", "integer", "nonnegative", "nonzero", "real", "precision", "evaluate", "negative"))
_GUARD_CALLS = frozenset(
    ("Eq", "Ne", "Max", "Min", "FloorDiv", "Mod", "PythonMod", "CleanDiv", "CeilDiv", "IntTrueDiv", "abs")
)
_GUARD_METHODS = frozenset(("size", "stride", "storage_offset", "dim"))
_ARITHMETIC = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or, ast.Eq,
    ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Load,
)  # fmt: skip
_TREES = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))


class TextError(ValueError):
    """The text is more than arithmetic on sizes."""


def is_identifier(text: object) -> bool:
    """Whether `text` may stand as a name in generated Python: ASCII, no keyword, no dunder."""
    plain = isinstance(text, str) and text.isascii() and text.isidentifier() and not keyword.iskeyword(text)
    return plain and not str(text).startswith("__") and len(str(text)) <= 500


def check_expression(text: object) -> str:
    """A size as sympy writes it, e.g. `Mul(Integer(2), Symbol('s77', positive=True, integer=True))`.

    Raises:
        TextError: it is something else.
    """
    tree = _parsed(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node, _SYMBOLIC_CALLS)
            if any(word.arg not in _ASSUMPTIONS or not isinstance(word.value, ast.Constant) for word in node.keywords):
                raise TextError(f"{_short(text)} has an argument that no size has")
            _check_symbolic_call(node, text)
        elif isinstance(node, ast.Name):
            if node.id not in _SYMBOLIC_CALLS | _SYMBOLIC_NAMES and not _SYMBOL.fullmatch(node.id):
                raise TextError(f"{_short(text)} names {node.id[:50]!r}, which is not a size")
        elif isinstance(node, ast.Constant):
            _check_constant(node, text, strings=True)
        elif not isinstance(node, (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.keyword, *_ARITHMETIC)):
            raise TextError(f"{_short(text)} is not arithmetic on sizes ({type(node).__name__})")
    return str(text)


def check_guard(text: object) -> str:
    """A condition on the inputs, e.g. `L['x'].size()[0] % 2 == 0`, written again from its parts.

    Raises:
        TextError: it is something else.
    """
    tree = _parsed(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    keys = {id(node.slice) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if node.keywords:
                raise TextError(f"{_short(text)} calls something with named arguments")
            if not isinstance(node.func, ast.Attribute):
                _check_call(node, _GUARD_CALLS)
        elif isinstance(node, ast.Attribute):
            if node.attr not in _GUARD_METHODS or id(node) not in called or not isinstance(node.value, ast.Subscript):
                raise TextError(f"{_short(text)} asks for {node.attr[:50]!r} of something")
        elif isinstance(node, ast.Name):
            if node.id != "L" and node.id not in _GUARD_CALLS:
                raise TextError(f"{_short(text)} names {node.id[:50]!r}, which is not an input")
        elif isinstance(node, ast.Constant):
            _check_constant(node, text, strings=id(node) in keys)
        elif not isinstance(
            node, (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Subscript, *_ARITHMETIC)
        ):
            raise TextError(f"{_short(text)} is not a condition on sizes ({type(node).__name__})")
    return ast.unparse(tree)


def check_tree(text: object, *, most_leaves: int = 10_000) -> str:
    """How inputs or outputs are nested, written again: tuples, lists and dictionaries of leaves.

    Raises:
        TextError: it is something else; other classes are imported by torch to read it.
    """
    if not isinstance(text, str) or len(text) > 200 * most_leaves:
        raise TextError("a description of nested inputs is not text, or too long")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(f"a description of nested inputs cannot be read ({error})") from error
    if not isinstance(content, list) or len(content) != 2 or content[0] != 1:
        raise TextError("a description of nested inputs has another version")
    return json.dumps([1, _tree(content[1], 0)])


def _tree(node: Any, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST or not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
        raise TextError("a description of nested inputs is not built of tuples, lists and dictionaries")
    kind, context, children = node["type"], node["context"], node["children_spec"]
    if not isinstance(children, list):
        raise TextError("a description of nested inputs is not built of tuples, lists and dictionaries")
    if kind is None and context is None and not children:
        return {"type": None, "context": None, "children_spec": []}
    if kind not in _TREES:
        raise TextError(f"inputs or outputs are a {str(kind)[:80]}; tuples, lists and dictionaries are read")
    inner = [_tree(child, depth + 1) for child in children]
    if kind in ("builtins.tuple", "builtins.list"):
        if context != "null":
            raise TextError(f"a {kind} has the context {str(context)[:80]!r}")
        return {"type": kind, "context": context, "children_spec": inner}
    keys = _keys(context)
    if len(keys) != len(inner):
        raise TextError(f"a {kind} has {len(keys)} keys and {len(inner)} values")
    return {"type": kind, "context": json.dumps(keys), "children_spec": inner}


def _keys(context: object) -> list[str | int]:
    try:
        keys = json.loads(context) if isinstance(context, str) else None
    except (ValueError, RecursionError):
        keys = None
    good = isinstance(keys, list) and all(
        type(key) is int or (isinstance(key, str) and _KEY.fullmatch(key)) for key in keys
    )
    if not good:
        raise TextError(f"the keys of a dictionary are {str(context)[:80]!r}")
    return list(keys or ())


def _parsed(text: object) -> ast.Expression:
    if not isinstance(text, str) or not text.isascii() or len(text) > _LONGEST or not text.isprintable():
        raise TextError(f"{_short(text)} is not arithmetic on sizes")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TextError(f"{_short(text)} is not arithmetic on sizes") from error
    if _depth(tree) > _DEEPEST:
        raise TextError(f"{_short(text)} is nested too deeply")
    return tree


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _check_call(node: ast.Call, known: Collection[str]) -> None:
    if not isinstance(node.func, ast.Name) or node.func.id not in known:
        raise TextError(f"{_short(ast.unparse(node))} calls something that is not arithmetic")


def _check_symbolic_call(node: ast.Call, text: object) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    strings = [word for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    if name == "Symbol":
        if len(node.args) != 1 or len(strings) != 1 or not _SYMBOL.fullmatch(str(strings[0].value)):
            raise TextError(f"{_short(text)} names a size that torch does not name so")
    elif name == "Float":
        if any(not re.fullmatch(r"-?[0-9.e+\-]{1,40}", str(word.value)) for word in strings):
            raise TextError(f"{_short(text)} has a number that is none")
    elif strings:
        raise TextError(f"{_short(text)} has a text in it")
    if name == "Pow" and not (len(node.args) == 2 and _small(node.args[1])):
        raise TextError(f"{_short(text)} has a power that is not a small number")


def _small(node: ast.expr) -> bool:
    """Whether an exponent is a constant between -1 and 8, as `Integer(2)` or `2`."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Integer"
        and len(node.args) == 1
    ):
        node = node.args[0]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant) and node.operand.value == 1
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 8


def _check_constant(node: ast.Constant, text: object, *, strings: bool) -> None:
    value = node.value
    small = isinstance(value, int) and abs(value) < 1 << 63
    string = strings and isinstance(value, str) and _KEY.fullmatch(value) is not None and len(value) <= 200
    if not small and not isinstance(value, float) and not string:
        raise TextError(f"{_short(text)} has the constant {str(value)[:50]!r}")


def _short(text: object) -> str:
    shown = str(text)
    return repr(shown if len(shown) <= 120 else shown[:117] + "...")
