"""The people of a gallery: numbered 0 .. P-1 by number of crops, then by name of their first track."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....finetune.embedding.unit_embeddings import unit_rows
from ..inputs.crops import Crops
from .similarity import similarity_rows

__all__ = ["People", "Person", "number_people"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Person:
    """One person."""

    id: int
    tracks: tuple[int, ...]
    """Numbers of the tracks, ascending."""
    crops: int
    cohesion: float | None
    """Mean cosine of all pairs of tracks; None of one track."""
    nearest: tuple[int, float] | None
    """The most similar other person, and the cosine."""
    name: str | None = None


@dataclass(frozen=True)
class People:
    """P people."""

    people: tuple[Person, ...]
    of_track: NDArray[np.int64]
    """The person of each track, int64 [T]; -1 of a track that is dropped."""
    vectors: Floats
    """float32 [P, D], the unit sum of the tracks' vectors."""

    def __len__(self) -> int:
        return len(self.people)


def number_people(
    crops: Crops, vectors: Floats, groups: NDArray[np.int64], names: dict[int, str] | None = None
) -> People:
    """Number groups of tracks.

    Args:
        crops: All crops.
        vectors: Unit vectors of the tracks, [T, D].
        groups: The group of each track, int64 [T]; -1 for those that are dropped.
        names: Names of groups.
    """
    counts = np.bincount(crops.track, minlength=len(crops.tracks))
    members = [np.flatnonzero(groups == group) for group in np.unique(groups[groups >= 0])]
    members.sort(key=lambda tracks: (-int(counts[tracks].sum()), int(tracks[0])))
    of_track = np.full(len(groups), -1, dtype=np.int64)
    sums = np.zeros((len(members), vectors.shape[1]), dtype=np.float64)
    for number, tracks in enumerate(members):
        of_track[tracks] = number
        sums[number] = vectors[tracks].sum(axis=0, dtype=np.float64)
    unit = unit_rows(sums.astype(np.float32))
    near = _nearest(unit)
    people = tuple(
        Person(
            id=number,
            tracks=tuple(tracks.tolist()),
            crops=int(counts[tracks].sum()),
            cohesion=_cohesion(sums[number], len(tracks)),
            nearest=near[number] if len(members) > 1 else None,
            name=(names or {}).get(int(groups[tracks[0]])),
        )
        for number, tracks in enumerate(members)
    )
    return People(people, of_track, unit)


def _cohesion(total: NDArray[np.float64], count: int) -> float | None:
    """|sum|^2 = count + 2 * sum of the cosines of all pairs."""
    return None if count < 2 else float((total @ total - count) / (count * (count - 1)))


def _nearest(unit: Floats) -> list[tuple[int, float]]:
    """The most similar other row of each, the lowest of equal ones, and the cosine."""
    found: list[tuple[int, float]] = []
    for rows, block in similarity_rows(unit):
        places = np.arange(len(block))
        block[places, np.arange(rows.start, rows.stop)] = -np.inf
        best = block.argmax(axis=1)
        found += zip(best.tolist(), block[places, best].tolist(), strict=True)
    return found
