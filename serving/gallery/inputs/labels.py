"""`--labels FILE.csv`: who is who, to measure only: `track,identity` (label or name of a track) or `path,identity`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ....errors import InputError
from ....finetune.data.formats.csv_columns import column_names
from .crops import Crops

__all__ = ["read_labels"]


def read_labels(path: Path, crops: Crops) -> tuple[str | None, ...]:
    """The identity of each track; None of those that the file does not name.

    Raises:
        InputError: the file cannot be read, has other columns, or gives one track two identities.
        DataError: its columns are separated by something else than commas.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected CSV with track,identity or path,identity"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    reader.fieldnames = column_names(path, reader.fieldnames)
    rows = list(reader)
    columns = set(rows[0]) if rows else set()
    key = next((name for name in ("track", "path") if name in columns), None)
    if key is None or "identity" not in columns:
        found = ", ".join(map(str, sorted(map(str, columns)))) or "none"
        raise InputError(f"{path}: expected the columns track,identity or path,identity, found {found}")
    of_name: dict[str, list[int]] = {}
    if key == "track":
        for number, track in enumerate(crops.tracks):
            for name in {track.label, track.name}:
                of_name.setdefault(name, []).append(number)
    else:
        for name, file, place in zip(crops.names, crops.paths, crops.track.tolist(), strict=True):
            for known in {name, str(file)}:
                of_name.setdefault(known, []).append(place)
    truth: dict[int, str] = {}
    for line, row in enumerate(rows, 2):
        identity = row["identity"]
        if not identity:
            continue
        for owner in of_name.get(row[key] or "", []):
            if truth.setdefault(owner, identity) != identity:
                raise InputError(
                    f"{path}: line {line}: track {crops.tracks[owner].label} is {identity} and was {truth[owner]}; "
                    "give each track one identity"
                )
    return tuple(truth.get(track) for track in range(len(crops.tracks)))
