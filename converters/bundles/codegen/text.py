"""Python text for one fx node: the expression that computes it."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ....errors import InputError
from ...lowering import exact

__all__ = ["expression", "member"]

_INFIX: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
}
_NAMESPACES: tuple[tuple[str, Any], ...] = (
    ("F", F),
    ("torch", torch),
    ("torch.linalg", torch.linalg),
    ("torch.fft", torch.fft),
    ("torch.special", torch.special),
)
_BUILTINS = {getattr: "getattr", int: "int", float: "float", len: "len", max: "max", min: "min", tuple: "tuple"}


def expression(node: fx.Node, names: Mapping[fx.Node, str], locate: Callable[[str], str]) -> str:
    """The right-hand side of the statement for `node`.

    `names` are the variables of earlier nodes; `locate` turns a module path into an expression.
    """
    if node.op == "get_attr":
        return locate(str(node.target))
    if node.op == "call_module":
        return f"{locate(str(node.target))}({_arguments(node, names)})"
    if node.op == "call_method":
        receiver, *rest = node.args
        return f"{_operand(receiver, names)}.{node.target}({_arguments(node, names, rest)})"
    if node.target is operator.getitem:
        return f"{_operand(node.args[0], names)}[{_index(node.args[1], names)}]"
    if node.target in _INFIX and len(node.args) == 2:
        left, right = (_operand(argument, names) for argument in node.args)
        return f"{left} {_INFIX[node.target]} {right}"
    return f"{function_name(node.target)}({_arguments(node, names)})"


def function_name(function: Any) -> str:
    """How generated code refers to `function`."""
    if function in _BUILTINS:
        return _BUILTINS[function]
    name = str(getattr(function, "__name__", ""))
    for prefix, namespace in _NAMESPACES:
        for candidate in (name, name.removeprefix("linalg_"), name.removeprefix("special_"), name.removeprefix("fft_")):
            if getattr(namespace, candidate, None) is function:
                return f"{prefix}.{candidate}"
    if getattr(function, "__objclass__", None) is not None:
        return f"torch.Tensor.{name}"
    if inspect.isfunction(function) and function.__module__.startswith(exact.__name__ + "."):
        return name
    raise InputError(f"model.py: no name for the function {function!r}; report this model")


def member(owner: str, name: str) -> str:
    """A member of a plain module; numbers are no attribute names."""
    return f'getattr({owner}, "{name}")' if name.isdigit() else f"{owner}.{name}"


def _arguments(node: fx.Node, names: Mapping[fx.Node, str], args: Any = None) -> str:
    positional = [_text(argument, names) for argument in (node.args if args is None else args)]
    return ", ".join([*positional, *(f"{name}={_text(value, names)}" for name, value in node.kwargs.items())])


def _operand(value: Any, names: Mapping[fx.Node, str]) -> str:
    text = _text(value, names)
    return f"({text})" if text.startswith("-") else text


def _text(value: Any, names: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, tuple):
        inner = ", ".join(_text(item, names) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return f"[{', '.join(_text(item, names) for item in value)}]"
    if isinstance(value, slice):
        return f"slice({', '.join(_text(item, names) for item in (value.start, value.stop, value.step))})"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return function_name(value)
    return repr(value)


def _index(value: Any, names: Mapping[fx.Node, str]) -> str:
    """What stands between the brackets of a subscript."""
    items = value if isinstance(value, tuple) else (value,)
    return ", ".join(_slice(item, names) if isinstance(item, slice) else _text(item, names) for item in items)


def _slice(value: slice, names: Mapping[fx.Node, str]) -> str:
    start, stop, step = ("" if part is None else _text(part, names) for part in (value.start, value.stop, value.step))
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
