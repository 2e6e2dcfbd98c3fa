"""The JSON files of a gallery; the readers that exist rely on these key names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..found import Found
from ..people.similarity import similarity_of_all
from .similarities import HighPairs

__all__ = ["clusters_record", "embeddings_record", "json_bytes", "pseudo_csv", "similarity_record", "utc"]

SCHEMA = 1
_LARGEST_MATRIX = 200
"""Rows up to which the matrix stands in the JSON file too."""


def utc() -> str:
    """Now, as `2026-01-15T12:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON that ends with a line feed; bytes of names that are not UTF-8 are escaped."""
    return (json.dumps(record, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def similarity_record(found: Found, high: HighPairs, timestamp: str) -> dict[str, Any]:
    """`similarity_matrix.json`, with the pairs above the listed threshold."""
    vectors = found.people.vectors
    small = len(vectors) <= _LARGEST_MATRIX
    return {
        "schema": SCHEMA,
        "model_type": found.model_type,
        "model": found.model,
        "sha256": found.sha256,
        "similarity_threshold": found.listed.value,
        "threshold_source": found.listed.source,
        "person_ids": list(range(len(found.people))),
        "order": "track" if found.method == "none" else "person",
        "high_similarity_pairs": high.pairs,
        "high_similarity_pairs_of_each": high.of_each,
        "matrix": np.round(similarity_of_all(vectors).astype(np.float64), 6).tolist() if small else None,
        "timestamp": timestamp,
    }


def embeddings_record(found: Found, timestamp: str) -> dict[str, Any]:
    """`embeddings.json`."""
    return {
        "schema": SCHEMA,
        "model": found.model,
        "model_type": found.model_type,
        "sha256": found.sha256,
        "feature_dimension": int(found.people.vectors.shape[1]),
        "person_ids": list(range(len(found.people))),
        "crops_per_person": [person.crops for person in found.people.people],
        "normalised": True,
        "centred": found.centred,
        "timestamp": timestamp,
    }


def clusters_record(found: Found) -> dict[str, Any]:
    """`clusters.json`, which holds no time, so that edits name it by its SHA-256."""
    tracks = found.crops.tracks
    first, last = found.crops.spans()
    people = []
    for person in found.people.people:
        own = list(person.tracks)
        people.append(
            {
                "id": person.id,
                "name": person.name,
                "tracks": [tracks[track].label for track in own],
                "cameras": sorted({tracks[track].camera for track in own} - {""}),
                "crops": person.crops,
                "first_frame": int(first[own].min()),
                "last_frame": int(last[own].max()),
                "cohesion": None if person.cohesion is None else round(person.cohesion, 6),
                "nearest": None if person.nearest is None else [person.nearest[0], round(person.nearest[1], 6)],
            }
        )
    return {
        "schema": SCHEMA,
        "model_type": found.model_type,
        "method": found.method,
        "threshold": found.threshold.value,
        "threshold_source": found.threshold.source,
        "people": people,
        "outliers": [tracks[track].label for track in found.outliers],
        "dropped": [tracks[track].label for track in np.flatnonzero(found.people.of_track < 0)],
        "split_suspects": [
            {"track": tracks[suspect.track].label, "cosine": round(suspect.cosine, 6), "note": "two people?"}
            for suspect in found.suspects
        ],
    }


def pseudo_csv(found: Found, paths: Sequence[Path | None]) -> bytes:
    """`pseudo.csv`: path, identity and camera of every crop of a person; outliers and dropped tracks are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "identity", "camera"))
    cameras = found.crops.camera_numbers
    alone = set(found.outliers)
    for path, track in zip(paths, found.crops.track.tolist(), strict=True):
        person = int(found.people.of_track[track])
        if person < 0 or track in alone or path is None:
            continue
        writer.writerow((path.as_posix(), person, int(cameras[track])))
    return text.getvalue().encode("utf-8", "surrogateescape")
