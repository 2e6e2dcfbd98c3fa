"""A manifest of crops: CSV with `path,track`, and `camera`, `frame`, `confidence` where they are known.

    path,track,camera,frame,confidence
    crops/0001.jpg,17,door,451,0.93

Paths are relative to the manifest. Frames are times of the camera, by which tracks can overlap.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from ....errors import DataError, nearest
from ....finetune.data.formats.csv_columns import csv_rows
from ....finetune.data.image_files import FileImages, printable
from .crops import Crop, Crops, make_crops

__all__ = ["manifest_crops"]

_COLUMNS = ("path", "track", "camera", "frame", "confidence")


def manifest_crops(path: Path) -> Crops:
    """Read a manifest.

    Raises:
        DataError: it is no UTF-8 CSV, columns are missing or unknown, or a value does not parse.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    names, rows = csv_rows(path, text)
    for name in names:
        if name not in _COLUMNS:
            raise DataError(f"{path}: unknown column '{name}'; {nearest(name, _COLUMNS)}")
    if missing := {"path", "track"} - set(names):
        raise DataError(f"{path}: column '{min(missing)}' is missing; expected path,track[,camera,frame,confidence]")
    found: list[Crop] = []
    files: list[Path] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        file = _file(path.parent, row["path"])
        if not row["path"] or not row["track"]:
            raise DataError(
                f"{path}: line {line}: expected a path and a track, got '{row['path']}' and '{row['track']}'"
            )
        place = os.path.normpath(file)
        if place in seen:
            raise DataError(f"{path}: lines {seen[place]} and {line}: {row['path']} is listed twice")
        seen[place] = line
        files.append(file)
        found.append(
            Crop(
                image=len(found),
                name=printable(row["path"]),
                track=row["track"],
                camera=row.get("camera") or "",
                frame=_whole(path, line, row["frame"]) if row.get("frame") else None,
                confidence=_confidence(path, line, row["confidence"]) if row.get("confidence") else math.nan,
                path=file.absolute(),
            )
        )
    unknown = sum(crop.frame is None for crop in found)
    notes = [f"{unknown} of {len(found)} crops have no frame, so that frames are not used"] if unknown else []
    timed = "frame" in names
    return make_crops(printable(path), FileImages(tuple(files)), found, timed=timed, notes=notes if timed else ())


def _file(folder: Path, text: str) -> Path:
    """The file of a row; a manifest made on Windows may write backslashes, which is a letter of names elsewhere."""
    return folder / text if os.path.exists(folder / text) else folder / text.replace("\\", os.sep)


def _whole(path: Path, line: int, text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number.is_integer() and 0 <= number < 2**53):
        raise DataError(f"{path}: line {line}: frame must be a whole number from 0, got '{text}'")
    return int(number)


def _confidence(path: Path, line: int, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise DataError(f"{path}: line {line}: confidence must be from 0 to 1, got '{text}'")
    return number
