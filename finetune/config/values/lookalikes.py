"""Values that look like another kind than a field's: `true` or a text for a number, 1 for true, 2024 for a text.

YAML 1.1 reads `yes`, `on` and `no` as booleans and bare numbers as numbers, and a lax reader turns each into the other
kind: a probability `true` becomes 1.0. They are refused here with the way to write what is meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

__all__ = ["lookalike"]

_SCALARS = (bool, int, float, str, Path)
_NOTHING = ("none", "nil")
"""Texts in YAML, where nothing is `null` or `~`."""


def lookalike(annotation: Any, value: Any, *, example: Any = None) -> str | None:
    """What is wrong with a value of a kind that the field's type does not name, where a lax reader would convert it.

    Lists and mappings are checked item by item. None for what is not a look-alike, which is left to pydantic.

    Args:
        annotation: The field's type.
        value: As it was read from YAML or given in Python.
        example: The field's default, which the text shows where it is a number.

    Returns:
        What is meant, what was found and how it is written.
    """
    return next(_problems(annotation, value, "", example), None)


def _problems(annotation: Any, value: Any, where: str, example: Any) -> Iterator[str]:
    options = list(_options(annotation))
    if isinstance(value, Mapping):
        values = [get_args(option)[1] for option in options if get_origin(option) is dict]
        for key, item in value.items() if values else ():
            yield from _problems(values[0], item, f"at '{key}': ", None)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in [get_args(option) for option in options if get_origin(option) is tuple][:1]:
            for place, item in enumerate(value):
                kind = inner[0 if Ellipsis in inner else min(place, len(inner) - 1)]
                yield from _problems(kind, item, f"item {place}: ", None)
    else:
        problem = _problem(options, value, example)
        if problem is not None:
            yield where + problem


def _problem(options: list[Any], value: Any, example: Any) -> str | None:
    """Why a scalar is of none of the kinds in `options`; None if it is of one, or pydantic shall judge."""
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    kinds = {option for option in options if option in _SCALARS}
    numeric, textual = bool(kinds & {int, float}), bool(kinds & {str, Path})
    named = any(type(word) is type(value) and word == value for word in words)
    if value is None or named or type(value) in kinds or isinstance(value, Path) or not kinds:
        return None
    if isinstance(value, bool):
        shown = str(value).lower()
        if numeric:
            default = f", such as {example:g}" if type(example) in (int, float) else ""
            return f"a number is meant, not {shown} (YAML reads yes, no, on and off so too); write a number{default}"
        return f"a text is meant, not {shown}; write null for none, or quote a word: 'yes', 'on'" if textual else None
    if isinstance(value, str):
        if value.lower() in _NOTHING and not textual:
            return f"a text, got '{value}'; for nothing write null, or leave the key out"
        if numeric and not (textual or _is_no_number(value)):
            if not math.isfinite(float(value)):
                return f"a finite number is meant, got '{value}'"
            return f"a number is meant, got the text '{value}'; write {float(value):.15g} without quotes"
        if kinds == {bool}:
            return f"true or false is meant, got the text '{value}'; write true or false without quotes"
        return None
    if kinds == {bool}:
        return f"true or false is meant, got the number {value}; write true or false"
    if textual and not numeric and isinstance(value, int | float | date):
        return f"a text is meant, got {value}; quote it: '{value}'"
    return None


def _is_no_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return True
    return False


def _options(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without `Annotated`, unions and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _options(argument)
    elif annotation is not NoneType:
        yield annotation
