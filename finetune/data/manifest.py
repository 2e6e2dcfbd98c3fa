"""A manifest: one line an image, in CSV with a header or in JSON lines.

    path,identity,camera,query
    crops/0001.jpg,alice,3,0

`path` (relative to the manifest) and `identity` (any text) are needed; `camera` (a number) and `query` (0 or 1) are
optional, for all lines or none.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, InputError, nearest
from .dataset import UNKNOWN_CAMERA, Dataset, FileImages, encode_identities

__all__ = ["open_manifest"]

_COLUMNS = ("path", "identity", "camera", "query")


def open_manifest(path: Path) -> Dataset:
    """Read a `.csv` or `.jsonl` manifest.

    Raises:
        InputError: the file is missing.
        DataError: columns are missing or unknown, a line does not parse, or there are fewer than two identities.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    text = path.read_text(encoding="utf-8-sig")
    rows = _csv_rows(path, text) if path.suffix == ".csv" else _json_rows(path, text)
    for number, row in enumerate(rows, 1):
        _check(path, number, row, rows[0])
    identities = encode_identities([str(row["identity"]) for row in rows])
    if not rows or identities.max() == 0:
        raise DataError(f"{path}: {len(rows)} images of {min(1, len(rows))} identity; at least 2 are needed")
    return Dataset(
        name=str(path),
        images=FileImages(tuple(path.parent / str(row["path"]) for row in rows)),
        identities=identities,
        cameras=np.array([int(row.get("camera", UNKNOWN_CAMERA)) for row in rows], dtype=np.int64),
        names=tuple(str(row["path"]) for row in rows),
        is_query=np.array([str(row["query"]) in ("1", "true", "True") for row in rows]) if "query" in rows[0] else None,
    )


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines())
    for name in reader.fieldnames or ():
        if name not in _COLUMNS:
            raise DataError(f"{path}: unknown column '{name}'; {nearest(name, _COLUMNS)}")
    return list(reader)


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is no JSON object: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number}: expected a JSON object, got {type(row).__name__}")
        rows.append(row)
    return rows


def _check(path: Path, number: int, row: dict[str, Any], first: dict[str, Any]) -> None:
    if row.keys() != first.keys():
        raise DataError(f"{path}: image {number} has the fields {sorted(row)}, the first has {sorted(first)}")
    for name in ("path", "identity"):
        if not str(row.get(name) or ""):
            raise DataError(f"{path}: image {number} has no {name}")
    if "camera" in row and not str(row["camera"]).isdigit():
        raise DataError(f"{path}: image {number}: camera must be a number from 0 on, got '{row['camera']}'")
