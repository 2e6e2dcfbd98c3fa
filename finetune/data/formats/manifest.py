"""A manifest: one line per image, in CSV with a header or in JSON lines.

    path,identity,camera,query
    crops/0001.jpg,alice,3,0

`path` (relative to the manifest) and `identity` (any text, or a whole number from 0) are required; `camera` (a whole
number from 0) and `query` (0 or 1, no or yes, false or true) are optional, for all lines or none. Empty lines are
skipped, images without an identity or with a negative one are left out and counted, and a path that is listed again is
read once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ....converters.records.json_text import parse_json
from ....errors import DataError, InputError, nearest
from ..dataset import MOST_CAMERA, UNKNOWN_CAMERA, Dataset, encode_identities
from ..identity_keys import NoIdentity, identity_key, left_out_notes, too_few_identities
from ..image_files import FileImages, printable
from .csv_columns import column_names

__all__ = ["listed_paths", "open_manifest"]

_COLUMNS = ("path", "identity", "camera", "query")
_ANSWERS = {"1": True, "1.0": True, "yes": True, "true": True, "0": False, "0.0": False, "no": False, "false": False}

Row = tuple[int, dict[str, Any]]
"""Line number, and fields."""


def open_manifest(path: Path) -> Dataset:
    """Read a `.csv` or `.jsonl` manifest.

    Raises:
        InputError: the file is missing.
        DataError: columns are missing or unknown, a line does not parse, or there are fewer than two identities.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    text = _read_text(path)
    rows = list(_csv_rows(path, text) if path.suffix == ".csv" else _json_rows(path, text))
    for line, row in rows:
        if row.keys() != rows[0][1].keys():
            raise DataError(f"{path}: line {line} has the fields {sorted(row)}, the first has {sorted(rows[0][1])}")
        try:
            _check(row)
        except ValueError as error:
            raise DataError(f"{path}: line {line}: {error}") from error
    keys = [identity_key(row["identity"]) for _, row in rows]
    notes = left_out_notes(keys, [printable(row["path"]) for _, row in rows])
    labelled = [
        (line, row, key) for (line, row), key in zip(rows, keys, strict=True) if not isinstance(key, NoIdentity)
    ]
    listed = _each_once(path, labelled)
    if again := len(labelled) - len(listed):
        notes += (f"{again} lines left out: their images are listed before",)
    images = [row for row, _ in listed]
    identities = encode_identities([key for _, key in listed])
    if not identities.any():
        raise too_few_identities(path, f"{len(images)} images of {min(1, len(images))} identity", notes)
    return Dataset(
        name=printable(path),
        images=FileImages(tuple(path.parent / row["path"] for row in images)),
        identities=identities,
        cameras=np.array([_camera(row.get("camera", UNKNOWN_CAMERA)) for row in images], dtype=np.int64),
        names=tuple(printable(row["path"]) for row in images),
        is_query=np.array([_is_query(row["query"]) for row in images]) if "query" in images[0] else None,
        notes=notes,
    )


def listed_paths(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The paths that a manifest lists, each once and as it writes them, and notes; its other columns may be any.

    Raises:
        DataError: there is no column `path`, a line does not parse, or no image is listed.
    """
    text = _read_text(path)
    rows = list(_csv_rows(path, text, None) if path.suffix == ".csv" else _json_rows(path, text, None))
    for line, row in rows:
        if not isinstance(row.get("path"), str) or not row["path"]:
            raise DataError(f"{path}: line {line}: expected a path, got {row.get('path')!r}; has {', '.join(row)}")
    listed = list(dict.fromkeys(row["path"] for _, row in rows))
    if not listed:
        raise DataError(f"{path}: lists no images; expected a column `path`")
    again = len(rows) - len(listed)
    return listed, (f"{again} lines left out: their images are listed before",) if again else ()


def _each_once(path: Path, rows: list[tuple[int, dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """The first line of each image.

    Raises:
        DataError: a later one names another identity or camera, or another side of the retrieval.
    """
    first: dict[Path, tuple[int, dict[str, Any], str]] = {}
    for line, row, key in rows:
        before, known, identity = first.setdefault(Path(row["path"]), (line, row, key))
        if key != identity:
            raise DataError(f"{path}: lines {before} and {line}: {row['path']} is of '{identity}' and of '{key}'")
        for field in ("camera", "query"):
            if str(row.get(field)) != str(known.get(field)):
                values = f"{known.get(field)} and {row.get(field)}"
                raise DataError(f"{path}: lines {before} and {line}: {row['path']} has {field} {values}")
    return [(row, key) for _, row, key in first.values()]


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8 text ({error.reason}); save the file as UTF-8") from error


def _csv_rows(path: Path, text: str, known: tuple[str, ...] | None = _COLUMNS) -> Iterator[Row]:
    """The lines of a CSV file; columns beyond `known` are refused, unless that is None."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        names = reader.fieldnames = column_names(path, reader.fieldnames)
        for name in names:
            _check_known(path, name, known)
        for row in reader:
            if None in row:
                raise DataError(f"{path}: line {reader.line_num} has more cells than the header ({', '.join(names)})")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.reader.line_num}: {error}; is a quotation mark missing?") from error


def _json_rows(path: Path, text: str, known: tuple[str, ...] | None = _COLUMNS) -> Iterator[Row]:
    # Split at line feeds only: str.splitlines would also split at separators that JSON allows inside texts.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number}: expected a JSON object, got {type(row).__name__}")
        for name in row:
            _check_known(path, name, known)
        yield number, row


def _check_known(path: Path, name: str, known: tuple[str, ...] | None) -> None:
    if known is not None and name not in known:
        raise DataError(f"{path}: unknown column '{name}'; {nearest(name, known)}")


def _check(row: dict[str, Any]) -> None:
    """Raise ValueError with what is wrong."""
    path, identity = row.get("path"), row.get("identity")
    if not isinstance(path, str) or not path:
        raise ValueError(f"expected a path, got {path!r}")
    if "identity" not in row:
        raise ValueError("expected an identity, text or a whole number; null leaves the image out")
    identity_key(identity)
    if "camera" in row:
        _camera(row["camera"], least=0)
    if "query" in row:
        _is_query(row["query"])


def _camera(value: object, *, least: int = UNKNOWN_CAMERA) -> int:
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if not (least <= number <= MOST_CAMERA and number.is_integer()):
        raise ValueError(f"camera must be a number from 0 on, got {value!r}")
    return int(number)


def _is_query(value: object) -> bool:
    answer = _ANSWERS.get(str(value).strip().lower())
    if answer is None:
        raise ValueError(f"query must be 0 or 1, got {value!r}")
    return answer
