"""`--threshold auto`: the cosine above which two tracks are one person, from the data alone.

Evidence: the halves of one track are certainly one person; two tracks of one camera that share five frames or more
are certainly two. The threshold is where the shares of both that it gets wrong are equal. It needs 30 pairs of each.
Without them Otsu's method (1979) splits the similarities of each track's eight likeliest partners, the upper tail of
all: the threshold that maximises the variance between the two classes. Without ten tracks the default stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....finetune.evaluation.pairs.pair_scores import pair_cosines
from ..tracks.vectors import TrackVectors
from .similarity import similarity_rows

__all__ = ["DEFAULT_THRESHOLD", "Threshold", "automatic_threshold", "equal_error", "otsu"]

DEFAULT_THRESHOLD = 0.70
_EVIDENCE = 30
"""Pairs of each kind without which two rates are not compared."""
_TRACKS = 10
_PARTNERS = 8
"""Per track, so that same and different persons are both in the tail."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it rests on."""

    value: float
    source: Literal["given", "evidence", "otsu", "default"]
    same_pairs: int = 0
    """Pairs of halves of one track."""
    different_pairs: int = 0
    """Pairs of tracks that overlap in time."""
    error_rate: float | None = None
    """Share of both that the threshold gets wrong, for evidence."""


def automatic_threshold(compared: NDArray[np.float32], vectors: TrackVectors, apart: NDArray[np.int64]) -> Threshold:
    """From the data alone.

    Args:
        compared: Vectors whose dot products are the similarities, float32 [T, D].
        vectors: The halves of tracks.
        apart: Pairs of tracks that overlap by five frames or more, int64 [P, 2].
    """
    same = np.clip(np.einsum("hd,hd->h", vectors.halves[:, 0], vectors.halves[:, 1]).astype(np.float64), -1, 1)
    different = np.clip(pair_cosines(compared, apart).astype(np.float64), -1, 1)
    counts = (len(same), len(different))
    if min(counts) >= _EVIDENCE:
        value, rate = equal_error(same, different)
        return Threshold(value, "evidence", *counts, rate)
    if len(compared) < _TRACKS:
        return Threshold(DEFAULT_THRESHOLD, "default", *counts)
    return Threshold(otsu(_upper_tail(compared)), "otsu", *counts)


def equal_error(same: Values, different: Values) -> tuple[float, float]:
    """The threshold at which the shares of `same` below it and of `different` from it on are nearest, and the share.

    Between two neighbouring cosines the rates do not change: the middle of them is taken.
    """
    levels = np.unique(np.concatenate([same, different]))
    candidates = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else levels
    missed = np.searchsorted(np.sort(same), candidates, side="left") / len(same)
    wrong = 1 - np.searchsorted(np.sort(different), candidates, side="left") / len(different)
    gaps = np.abs(missed - wrong)
    nearest = np.flatnonzero(gaps == gaps.min())
    best = nearest[len(nearest) // 2]
    return float(candidates[best]), float((missed[best] + wrong[best]) / 2)


def otsu(values: Values) -> float:
    """The threshold that splits `values` into two classes with the largest variance between them."""
    ordered = np.sort(values)
    count = len(ordered)
    below = np.arange(1, count)
    sums = np.cumsum(ordered)
    low = sums[:-1] / below
    high = (sums[-1] - sums[:-1]) / (count - below)
    between = below * (count - below) * (high - low) ** 2
    best = int(np.argmax(between)) if count > 1 else 0
    return float((ordered[best] + ordered[min(best + 1, count - 1)]) / 2)


def _upper_tail(compared: NDArray[np.float32]) -> Values:
    """The cosines of each track with those most similar to it."""
    partners = min(_PARTNERS, len(compared) - 1)
    tail = np.empty((len(compared), partners))
    for rows, block in similarity_rows(compared):
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = -np.inf
        block.partition(len(compared) - partners, axis=1)
        tail[rows] = block[:, -partners:]
    return tail.ravel()
