"""JSON out of files of strangers: `json.loads` that ends in one kind of error, whatever the file does.

`json.loads` keeps the last of two equal keys, where another reader may keep the first, and raises RecursionError at
deep nesting, as do the functions that copy or compare what it returned.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]

_DEEPEST = 100


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        json.JSONDecodeError: it is not JSON, is nested more than 100 deep, or has a key twice in one object.
        UnicodeDecodeError: bytes that are not UTF-8.
    """
    shown = text if isinstance(text, str) else text.decode("utf-8")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise json.JSONDecodeError(f"key {twice[:60]!r} stands there twice", shown[:200], 0)
        return found

    try:
        content = json.loads(shown, object_pairs_hook=pairs)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", shown[:200], 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a number of more than 4300 digits
        raise json.JSONDecodeError(str(error).partition(";")[0], shown[:200], 0) from None
    level = [content]
    for _ in range(_DEEPEST):
        level = [item for value in level for item in _inside(value)]
        if not level:
            return content
    raise json.JSONDecodeError(f"nested more than {_DEEPEST} deep", shown[:200], 0)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
