"""`edits.json`: what a person corrected on the page, by track, so that it survives another threshold.

    {"schema": 1, "source_sha256": "...", "threshold": 0.71, "merge": [["t3", "t9"]], "drop": ["t11"],
    "split": [{"from": 2, "tracks": ["t7"], "rest": ["t5", "t6"]}],
    "names": {"0": "red coat"}, "named_tracks": {"t7": "blue hat"}}

Tracks are clustered first. Then each split takes its `tracks` out of the groups of its `rest`, into a group of their
own; without `rest`, it is what else person `from` had. Then each merge joins the groups of its tracks. `names` go by
the number of the person in the gallery that was edited, `named_tracks` by a track of the person. A merge of tracks that
a split keeps apart is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....converters.records.json_text import parse_json
from ....errors import InputError, nearest

__all__ = ["Edits", "Split", "apply_edits", "read_edits"]

Integers = NDArray[np.int64]

_KEYS = ("schema", "source_sha256", "threshold", "merge", "split", "drop", "names", "named_tracks")


@dataclass(frozen=True)
class Split:
    """`tracks` are not who `rest` are."""

    tracks: tuple[str, ...]
    rest: tuple[str, ...]


@dataclass(frozen=True)
class Edits:
    """Corrections by the labels of tracks."""

    path: Path
    merge: tuple[tuple[str, ...], ...]
    split: tuple[Split, ...]
    drop: tuple[str, ...]
    names: tuple[tuple[str, tuple[str, ...]], ...]
    """Name of a person, and the tracks the person had where it was named."""
    threshold: float | None


def read_edits(path: Path, clusters: bytes) -> Edits:
    """Read edits of the gallery whose clusters.json has these bytes.

    Raises:
        InputError: the file is missing, has another form, or is of another gallery.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); save edits.json on the gallery's page") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); save edits.json on the gallery's page again") from error
    if not isinstance(record, dict) or record.get("schema") != 1 or record["schema"] is True:
        raise InputError(f"{path}: expected the edits of a gallery with schema 1; save edits.json on its page")
    digest = hashlib.sha256(clusters).hexdigest()
    if record.get("source_sha256") != digest:
        raise InputError(
            f"{path}: was made on another gallery (clusters.json {str(record.get('source_sha256'))[:12]}, this one is "
            f"{digest[:12]}); open this gallery's page and edit there"
        )
    try:
        people = {int(person["id"]): _texts(person["tracks"]) for person in parse_json(clusters)["people"]}
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: was made on a clusters.json that rtool did not write ({error!r}); make the gallery again"
        ) from error
    try:
        return _checked(path, record, people)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: expected merge [[track, ...]], split [{{from, tracks}}], drop [track], names {{person: name}}, "
            f"named_tracks {{track: name}} and a threshold ({error}); save edits.json on the gallery's page again"
        ) from error


def _checked(path: Path, record: Mapping[str, Any], people: Mapping[int, tuple[str, ...]]) -> Edits:
    _check_keys(record, _KEYS)
    splits = []
    for entry in record.get("split", []):
        _check_keys(entry, ("from", "tracks", "rest"))
        tracks = _texts(entry["tracks"])
        if "rest" in entry:
            rest = _texts(entry["rest"])
        else:
            rest = tuple(track for track in _tracks_of(people, entry["from"]) if track not in tracks)
        splits.append(Split(tracks, rest))
    threshold = record.get("threshold")
    if threshold is not None and not (type(threshold) in (int, float) and -1 <= threshold <= 1):
        raise ValueError(f"a threshold is a cosine from -1 to 1, got {threshold!r}")
    return Edits(
        path,
        tuple(_texts(group) for group in record.get("merge", [])),
        tuple(splits),
        _texts(record.get("drop", [])),
        (
            *((_texts([name])[0], _tracks_of(people, number)) for number, name in record.get("names", {}).items()),
            *((_texts([name])[0], (track,)) for track, name in record.get("named_tracks", {}).items()),
        ),
        None if threshold is None else float(threshold),
    )


def _check_keys(record: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in dict(record):
        if name not in known:
            raise ValueError(f"unknown key '{name[:60]}'; {nearest(name, known)}")


def _tracks_of(people: Mapping[int, tuple[str, ...]], number: Any) -> tuple[str, ...]:
    if not (type(number) is int or (isinstance(number, str) and number.isdecimal())) or int(number) not in people:
        raise ValueError(f"there is no person {number!r}; the gallery has {len(people)}, from 0")
    return people[int(number)]


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of texts, got {values!r}")
    return tuple(values)


def apply_edits(groups: Integers, edits: Edits, labels: Sequence[str]) -> tuple[Integers, dict[int, str]]:
    """Groups of T tracks after the edits, -1 for dropped ones, and the names of groups.

    Args:
        groups: The group of each track, the lowest track of it, int64 [T].
        edits: The corrections.
        labels: Of the tracks.

    Raises:
        InputError: a track is unknown, or a merge joins what a split keeps apart.
    """
    number = {label: place for place, label in enumerate(labels)}

    def places(names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in number]
        if unknown:
            raise InputError(f"{edits.path}: track '{unknown[0]}' is not in these crops; edit this gallery's own page")
        return [number[name] for name in names]

    result = groups.copy()
    for split in edits.split:
        own, rest = places(split.tracks), places(split.rest)
        leaving = [track for track in own if result[track] in {int(result[other]) for other in rest}]
        _separate(result, leaving)
    for merge in edits.merge:
        joined = np.isin(result, result[places(merge)])
        result[joined] = np.flatnonzero(joined)[:1]
    for split in edits.split:
        for track in places(split.tracks):
            for other in places(split.rest):
                if result[track] == result[other]:
                    raise InputError(
                        f"{edits.path}: track '{labels[track]}' is split from '{labels[other]}' and merged with it; "
                        "undo one of both"
                    )
    result[places(edits.drop)] = -1
    named = {}
    for name, tracks in edits.names:
        kept = [int(result[track]) for track in places(tracks) if result[track] >= 0]
        if kept:
            named[max(set(kept), key=kept.count)] = name
    return result, named


def _separate(groups: Integers, leaving: list[int]) -> None:
    """Make one group of `leaving`, and keep every group called by its lowest track."""
    if not leaving:
        return
    fresh = len(groups) + min(leaving)
    touched = {int(groups[track]) for track in leaving}
    groups[leaving] = fresh
    for group in (*touched, fresh):
        own = np.flatnonzero(groups == group)
        if len(own):
            groups[own] = own[0]
