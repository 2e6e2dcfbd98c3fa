"""Python text for one fx node: the expression that computes it.

A number in which blocks may differ (a size that a tensor is reshaped to, a scale) is marked in the text by `marked`,
so that blocks equal but for such numbers can share a class; `split_marks` takes the text apart at the marks.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx

from ....errors import InputError
from ...lowering import exact

__all__ = ["Written", "expression", "function_name", "length", "split_marks"]

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
_SUMS, _PRODUCTS = ("+", "-"), ("*", "@", "/")
_NAMESPACES: tuple[tuple[str, Any], ...] = (
    ("F", F),
    ("torch", torch),
    ("torch.linalg", torch.linalg),
    ("torch.fft", torch.fft),
    ("torch.special", torch.special),
)
_BUILTINS = {int: "int", float: "float", len: "len", max: "max", min: "min", tuple: "tuple"}


_SIZED = {
    **dict.fromkeys(("expand", "getitem", "interpolate", "reshape", "split", "view"), "size"),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), "size"),
    **dict.fromkeys(("mul", "truediv", "scaled_dot_product_attention"), "scale"),
    "pad": "padding",
    "roll": "shift",
}
"""Function -> what a number among its arguments is called, where blocks may differ in it."""
_MARK = "\0"
"""Stands nowhere else: in the representation of a string it is written as an escape."""


def marked(value: int | float, role: str) -> str:
    """The text of a number that is called `role`, with marks around it."""
    return f"{_MARK}{role}={value!r}{_MARK}"


def split_marks(text: str) -> list[str | tuple[str, str]]:
    """The pieces of `text`: plain ones, and (role, text) of marked numbers."""
    pieces: list[str | tuple[str, str]] = []
    for index, piece in enumerate(text.split(_MARK)):
        role, _, value = piece.partition("=")
        pieces.append((role, value) if index % 2 else piece)
    return [piece for piece in pieces if piece]


def length(text: str) -> int:
    """How long `text` is when every marked number counts as two characters, whatever its value."""
    return len(re.sub(f"{_MARK}[^{_MARK}]*{_MARK}", "00", text))


class Written(NamedTuple):
    """An expression, and the operator that binds it loosest where it is not one piece."""

    text: str
    operator: str = ""
    depth: int = 0
    """How many calls and operations are nested in it."""


Names = Mapping[fx.Node, Written]


def expression(node: fx.Node, names: Names, locate: Callable[[str], str]) -> Written:
    """The right-hand side of the statement for `node`.

    `names` are variables of earlier nodes, or expressions to be written in their place; `locate` turns a module path
    into an expression.
    """
    role = _SIZED.get(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""), "")
    depth = 1 + max((names[n].depth for n in node.all_input_nodes), default=0)
    if node.op == "get_attr":
        return Written(locate(str(node.target)))
    if node.op == "call_module":
        return Written(f"{locate(str(node.target))}({_arguments(node, names, role)})", "", depth)
    if node.op == "call_method":
        receiver, *rest = node.args
        return Written(f"{_operand(receiver, names)}.{node.target}({_arguments(node, names, role, rest)})", "", depth)
    if node.target is operator.getitem:
        return Written(f"{_operand(node.args[0], names)}[{_index(node.args[1], names, role)}]", "", depth)
    if node.target is getattr and str(node.args[1]).isidentifier():
        return Written(f"{_operand(node.args[0], names)}.{node.args[1]}", "", depth)
    if node.target in _INFIX and len(node.args) == 2:
        symbol = _INFIX[node.target]
        left = _operand(node.args[0], names, symbol, role)
        right = _operand(node.args[1], names, f"right {symbol}", role)
        return Written(f"{left} {symbol} {right}", symbol, depth)
    return Written(f"{function_name(node.target)}({_arguments(node, names, role)})", "", depth)


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


def _arguments(node: fx.Node, names: Names, role: str, args: Any = None) -> str:
    positional = [_text(argument, names, role) for argument in (node.args if args is None else args)]
    return ", ".join([*positional, *(f"{name}={_text(value, names, role)}" for name, value in node.kwargs.items())])


def _operand(value: Any, names: Names, place: str = "", role: str = "") -> str:
    """`value` beside an operator (or, with an empty `place`, in front of a dot or a bracket)."""
    text = _text(value, names, role)
    inner = names[value].operator if isinstance(value, fx.Node) else ""
    if inner and not _binds(inner, place):
        return f"({text})"
    is_number = isinstance(value, int | float) and not place
    return f"({text})" if text.startswith("-") or is_number else text


def _binds(inner: str, place: str) -> bool:
    """Whether `inner` needs no brackets at `place`: products within sums, and sums or products from the left."""
    if place in (*_SUMS, "right +", "right -") and inner in _PRODUCTS:
        return True
    return (inner in _SUMS and place in _SUMS) or (inner == "*" and place in ("*", "/"))


def _text(value: Any, names: Names, role: str = "") -> str:
    if isinstance(value, fx.Node):
        return names[value].text
    if isinstance(value, tuple):
        inner = ", ".join(_text(item, names, role) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return f"[{', '.join(_text(item, names, role) for item in value)}]"
    if isinstance(value, slice):
        return f"slice({', '.join(_text(item, names, role) for item in (value.start, value.stop, value.step))})"
    if role and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
        return marked(value, role)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return function_name(value)
    return repr(value)


def _index(value: Any, names: Names, role: str) -> str:
    """What stands between the brackets of a subscript."""
    items = value if isinstance(value, tuple) else (value,)
    return ", ".join(
        _slice(item, names, role) if isinstance(item, slice) else _text(item, names, role) for item in items
    )


def _slice(value: slice, names: Names, role: str) -> str:
    start, stop, step = (
        "" if part is None else _text(part, names, role) for part in (value.start, value.stop, value.step)
    )
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
