"""Tracks that may hold two people, because a tracker changed its mind: their halves in time are unlike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tracks.vectors import TrackVectors

__all__ = ["Suspect", "change_point", "split_suspects"]


@dataclass(frozen=True)
class Suspect:
    """A track and the cosine of its halves."""

    track: int
    cosine: float


def split_suspects(vectors: TrackVectors, threshold: float) -> tuple[Suspect, ...]:
    """Tracks of four crops or more whose halves have a cosine below the threshold, in the order of tracks."""
    cosines = np.einsum("hd,hd->h", vectors.halves[:, 0], vectors.halves[:, 1])
    return tuple(
        Suspect(int(track), float(cosine))
        for track, cosine in zip(vectors.halved, cosines, strict=True)
        if cosine < threshold
    )


def change_point(embeddings: NDArray[np.float32]) -> int:
    """Where a sequence of unit vectors [n, D], n >= 4, is best cut in two: the length of the first part, 2 to n - 2.

    The cut maximises |sum of the first part| + |sum of the second|, which is the sum of the cosines with the mean of
    each part (spherical k-means: Dhillon, Modha 2001).
    """
    sums = np.cumsum(embeddings.astype(np.float64), axis=0)
    places = np.arange(2, len(embeddings) - 1)
    worth = np.linalg.norm(sums[places - 1], axis=1) + np.linalg.norm(sums[-1] - sums[places - 1], axis=1)
    return int(places[worth.argmax()])
