"""The files of an evaluation: evaluation.json, table.csv and report.html in one folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....converters.files.atomic_file import write_atomically
from ....errors import InputError
from .entries import MeasuredSet

__all__ = ["make_folder", "write_report", "write_values"]


def make_folder(folder: Path) -> None:
    """Make the folder if it is absent.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made for the evaluation's files: {error.strerror}") from error


def write_values(folder: Path, values: Mapping[str, Any]) -> None:
    """Write evaluation.json, JSON data as the command prints them with --json."""
    write_atomically(folder / "evaluation.json", (json.dumps(values, indent=2) + "\n").encode())


def write_report(
    folder: Path, sets: Sequence[MeasuredSet], facts: Mapping[str, str], rows: Sequence[tuple[str, str]]
) -> Path:
    """Write table.csv and report.html; returns the path of the latter.

    Args:
        folder: Where they go.
        sets: What was measured.
        facts: What the page says of the model.
        rows: Name and text of each figure.
    """
    from .page import render_page

    text = io.StringIO(newline="")
    csv.writer(text).writerows([("name", "value"), *rows])
    write_atomically(folder / "table.csv", text.getvalue().encode())
    path = folder / "report.html"
    write_atomically(path, render_page(sets, facts, rows).encode())
    return path
