"""The columns that the first line of a CSV names; files with another separator are refused by the separator's name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ....errors import DataError

__all__ = ["column_names"]

_OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def column_names(path: Path, cells: Iterable[str] | None) -> list[str]:
    """The names in `cells`, as a reader at commas found them, without spaces around them.

    Raises:
        DataError: there is one cell alone, and another separator inside it.
    """
    names = [cell.strip() for cell in cells or ()]
    for separator, name in _OTHERS.items():
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"{path}: its first line separates columns by {name}; save the file with commas")
    return names
