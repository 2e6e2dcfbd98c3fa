"""CSV files whose first line names the columns: what every reader of one refuses, in one place.

Files with another separator are refused by its name, unlike lines and open quotation marks by their line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....errors import DataError

__all__ = ["column_names", "csv_rows"]

_OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def column_names(path: Path, cells: Iterable[str] | None) -> list[str]:
    """The names in `cells`, as a reader at commas found them, without spaces around them.

    Raises:
        DataError: there is one cell alone, and another separator inside it; or a name occurs twice.
    """
    names = [cell.strip() for cell in cells or ()]
    for separator, name in _OTHERS.items():
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"{path}: its first line separates columns by {name}; save the file with commas")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: column '{name}' occurs twice")
    return names


def csv_rows(path: Path, text: str) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """The columns of a CSV file, and its rows with the number of their line; every row has a cell per column.

    Raises:
        DataError: as `column_names`; a row has another number of cells, or a quotation mark is not closed.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    rows = []
    try:
        names = reader.fieldnames = column_names(path, reader.fieldnames)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}: line {reader.line_num} has another number of cells than the header ({', '.join(names)})"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.reader.line_num}: {error}; is a quotation mark missing?") from error
    return names, rows
