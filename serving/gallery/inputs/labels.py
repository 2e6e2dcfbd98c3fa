"""`--labels FILE.csv`: who is who, to measure only: `track,identity` (label or name of a track) or `path,identity`."""

from __future__ import annotations

from pathlib import Path

from ....errors import InputError
from ....finetune.data.formats.csv_columns import csv_rows
from ....finetune.data.identity_keys import NoIdentity, identity_key
from .crops import Crops

__all__ = ["read_labels"]


def read_labels(path: Path, crops: Crops) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """The identity of each track, None of those that the file does not name; and notes on what does not fit.

    Raises:
        InputError: the file cannot be read, has other columns, names none of the tracks, or gives one two identities.
        DataError: it is no CSV.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected CSV with track,identity or path,identity"
        ) from error
    columns, rows = csv_rows(path, text)
    key = next((name for name in ("track", "path") if name in columns), None)
    if key is None or "identity" not in columns:
        found = ", ".join(sorted(columns)) or "none"
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
    strangers = []
    for line, row in rows:
        identity = identity_key(row["identity"])
        if isinstance(identity, NoIdentity):
            continue
        if row[key] not in of_name:
            strangers.append(row[key])
        for owner in of_name.get(row[key], []):
            if truth.setdefault(owner, identity) != identity:
                raise InputError(
                    f"{path}: line {line}: track {crops.tracks[owner].label} is {identity} and was {truth[owner]}; "
                    "give each track one identity"
                )
    if not truth:
        raise InputError(f"{path}: names none of these tracks; expected track,identity or path,identity")
    notes = []
    if strangers:
        notes.append(f"{path.name}: {len(strangers)} rows are of no {key} in these crops, such as {strangers[0]!r}")
    if unknown := len(crops.tracks) - len(truth):
        notes.append(f"{path.name}: {unknown} of {len(crops.tracks)} tracks have no identity and are not measured")
    return tuple(truth.get(track) for track in range(len(crops.tracks))), tuple(notes)
