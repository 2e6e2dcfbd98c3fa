"""Assignments of a Python configuration (`config.lr = 0.1`), read from its syntax tree; nothing of it is executed.

Values are literals, arithmetic of numbers, joined texts, lists, tuples, mappings and settings from above. What needs
code (a function, a call, a loop) is kept as `Code`, so that the reader of the settings can say that it was left out.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import ConfigError, InputError

__all__ = ["Code", "read_python_settings"]

_LONGEST = 1 << 20
_DEEPEST = 100
_MOST = 1e15
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {ast.Eq: operator.eq, ast.NotEq: operator.ne}


@dataclass(frozen=True)
class Code:
    """A value that only running the file would give."""

    line: int

    def __str__(self) -> str:
        return f"code in line {self.line}"


class _NeedsCodeError(Exception):
    """A value cannot be read without running code."""


def read_python_settings(path: Path) -> dict[str, Any]:
    """The settings of `config` in the order of the file; those of a base file that it imports come first.

    Raises:
        InputError: a file is missing.
        ConfigError: it is not Python, too large, or decides by code what it sets.
    """
    settings = _read(path, ())
    if not settings:
        raise ConfigError(f"{path}: sets nothing of config; expected lines such as config.lr = 0.1")
    return settings


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise ConfigError(f"{path}: imports itself")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if len(text) > _LONGEST:
            raise ConfigError(f"{path}: {len(text)} characters are not a configuration; at most {_LONGEST}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: not Python that can be read: {error}") from error
    reader = _Reader(path, (*above, path.resolve()))
    reader.run(tree.body)
    return reader.settings


class _Reader:
    def __init__(self, path: Path, above: tuple[Path, ...]) -> None:
        self._path, self._above = path, above
        self.settings: dict[str, Any] = {}
        self._names: dict[str, Any] = {}
        self._config = {"config", "cfg", "_C"}

    def run(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.ImportFrom(module=str(module)) if any(alias.name in self._config for alias in node.names):
                self._base(module)
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                self._names[name] = Code(node.lineno)
            case ast.If(test=test):
                self.run(node.body if self._decided(test) else node.orelse)
            case ast.Expr(
                value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update"), args=[arguments])
            ) if name in self._config:
                self._update(arguments)
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr=attribute))) if attribute in ("insert", "append"):
                pass  # sys.path
            case _:
                raise ConfigError(
                    f"{self._path}: line {node.lineno} is code that would have to run to know the settings; write "
                    "the values out, as config.NAME = VALUE"
                )

    def _base(self, module: str) -> None:
        """The settings of the file that `from configs.base import config` names, which lies beside this one."""
        base = self._path.parent / f"{module.rpartition('.')[2]}.py"
        if not base.is_file():
            raise InputError(f"{self._path}: takes its settings from {module}, and {base} does not exist; put it there")
        self.settings.update(_read(base, self._above))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in self._config:
                self.settings[name] = self._value(value)
            case ast.Subscript(value=ast.Name(id=owner), slice=ast.Constant(value=str(name))) if owner in self._config:
                self.settings[name] = self._value(value)
            case ast.Name(id=name) if name in self._config:
                self._start(value)
            case ast.Name(id=name):
                self._names[name] = self._value(value)
            case _:
                raise ConfigError(f"{self._path}: line {target.lineno} sets something that is not a key of config")

    def _start(self, value: ast.expr) -> None:
        """`config = edict()`, `dict(a=1)` or `{...}`."""
        match value:
            case ast.Call(args=arguments, keywords=keywords) if all(word.arg for word in keywords):
                for argument in arguments:
                    self._update(argument)
                self.settings.update({word.arg: self._value(word.value) for word in keywords if word.arg})
            case _:
                self._update(value)

    def _update(self, value: ast.expr) -> None:
        found = self._value(value)
        if not isinstance(found, dict):
            raise ConfigError(f"{self._path}: line {value.lineno}: expected a mapping of settings")
        self.settings.update(found)

    def _decided(self, test: ast.expr) -> bool:
        try:
            match test:
                case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _COMPARISONS:
                    return _COMPARISONS[type(sign)](self._literal(left, 0), self._literal(right, 0))
                case _:
                    return bool(self._literal(test, 0))
        except _NeedsCodeError as error:
            raise ConfigError(
                f"{self._path}: line {test.lineno} decides by code what it sets; leave only the settings that hold"
            ) from error

    def _value(self, node: ast.expr) -> Any:
        try:
            return self._literal(node, 0)
        except _NeedsCodeError:
            return Code(node.lineno)

    def _literal(self, node: ast.expr, depth: int) -> Any:
        if depth > _DEEPEST:
            raise _NeedsCodeError
        deeper = depth + 1
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return [self._literal(item, deeper) for item in items]
            case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
                pairs = zip(keys, values, strict=True)
                return {str(self._literal(key, deeper)): self._literal(value, deeper) for key, value in pairs if key}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(self._literal(operand, deeper))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._literal(operand, deeper)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                return self._combined(
                    _ARITHMETIC[type(sign)], self._literal(left, deeper), self._literal(right, deeper)
                )
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in self._config and name in self.settings:
                return self._known(self.settings[name])
            case ast.Name(id=name) if name in self._names:
                return self._known(self._names[name])
        raise _NeedsCodeError

    def _combined(self, combine: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str) and combine is operator.add:
            return left + right
        try:
            result = combine(self._number(left), self._number(right))
        except ZeroDivisionError as error:
            raise _NeedsCodeError from error
        if abs(result) > _MOST:
            raise _NeedsCodeError
        return result

    def _number(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _NeedsCodeError
        return value

    def _known(self, value: Any) -> Any:
        if isinstance(value, Code):
            raise _NeedsCodeError
        return value
