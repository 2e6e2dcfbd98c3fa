"""10-fold decisions about pairs by any score: the threshold of nine folds is applied to the tenth.

Scores of a matcher have no fixed range, so there is no grid of thresholds as `folds` has for distances: candidates are
the midpoints between neighbouring scores of the nine folds, the first of the best is taken, and a pair is accepted
above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..pairs.folds import FOLDS
from ..pairs.receiver_curve import ReceiverCurve

__all__ = ["best_midpoint", "consecutive_folds", "interleaved_folds", "midpoint_decisions", "true_accepts_by_fold"]

Scores = NDArray[np.floating]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


def consecutive_folds(count: int) -> list[Indices]:
    """The pairs of each fold of a protocol: ten consecutive parts.

    Raises:
        DataError: fewer pairs than folds.
    """
    if count < FOLDS:
        raise DataError(f"verification: {count} pairs; at least {FOLDS} are needed for {FOLDS} folds")
    return [part.astype(np.int64) for part in np.array_split(np.arange(count), FOLDS)]


def interleaved_folds(count: int) -> list[Indices]:
    """Every tenth pair, for pairs that are laid out kind by kind."""
    return [np.arange(first, count, FOLDS, dtype=np.int64) for first in range(FOLDS)]


def best_midpoint(scores: Scores, is_same: Flags) -> tuple[float, float]:
    """The midpoint of two neighbouring scores [P] with the most right decisions, and the share that is right.

    The first of equally good ones is taken; a pair is accepted above it.
    """
    order = np.argsort(scores, kind="stable")
    ranked, same = np.asarray(scores, dtype=np.float64)[order], is_same[order]
    middle = (ranked[:-1] + ranked[1:]) / 2
    # Where scores are equal, their midpoint refuses all of them.
    refused = np.searchsorted(ranked, middle, side="right")
    same_below = np.concatenate([[0], np.cumsum(same)])[refused]
    right = same.sum() - same_below + (refused - same_below)
    best = int(right.argmax())
    return float(middle[best]), float(right[best] / len(ranked))


def midpoint_decisions(scores: Scores, is_same: Flags, folds: Sequence[Indices]) -> Flags:
    """Which pairs are accepted at the threshold of the other folds, bool [P]."""
    accepted = np.zeros(len(scores), dtype=bool)
    for fold in folds:
        rest = np.ones(len(scores), dtype=bool)
        rest[fold] = False
        accepted[fold] = scores[fold] > best_midpoint(scores[rest], is_same[rest])[0]
    return accepted


def true_accepts_by_fold(scores: Scores, is_same: Flags, folds: Sequence[Indices], far: float) -> NDArray[np.float64]:
    """VAL@FAR: the share of each fold's same pairs above the lowest threshold that keeps the other folds to `far`.

    A fold without same pairs gives NaN.
    """
    rates = []
    for fold in folds:
        rest = np.ones(len(scores), dtype=bool)
        rest[fold] = False
        threshold = ReceiverCurve(scores[rest], is_same[rest]).threshold(far)
        same = scores[fold][is_same[fold]]
        rates.append((same > threshold).mean() if same.size else np.nan)
    return np.array(rates, dtype=np.float64)
