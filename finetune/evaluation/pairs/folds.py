"""10-fold accuracy and VAL@FAR as on LFW: thresholds are chosen on nine tenths of the pairs, and measured on the tenth.

Huang et al., "Labeled Faces in the Wild", 2007, in insightface's form: squared distances of unit embeddings, thresholds
0 to 4 in steps of 0.01, unshuffled folds; the threshold with the best accuracy on nine folds (the first of equals) is
applied to the tenth. VAL@FAR: thresholds in steps of 0.001; the threshold at which nine folds have the FAR,
interpolated linearly, gives the tenth fold's share of true accepts.

Pairs are counted between thresholds, fold by fold, so memory does not grow with pairs times thresholds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..cores import on_all_cores

__all__ = ["FOLDS", "fold_accuracies", "fold_decisions", "fold_true_accepts"]

Distances = NDArray[np.floating]
Indices = NDArray[np.int64]

FOLDS = 10
_THRESHOLDS = np.arange(0, 4, 0.01)
_FINE_THRESHOLDS = np.arange(0, 4, 0.001)


def fold_accuracies(distances: Distances, is_same: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Accuracy on each of ten consecutive folds of the pairs, at the other folds' best threshold: float64 [10].

    Args:
        distances: Squared distances of unit embeddings, [P].
        is_same: Which pairs are of one identity, bool [P].

    Raises:
        DataError: fewer pairs than folds.
    """
    right = fold_decisions(distances, is_same) == is_same
    return np.array([right[fold].mean() for fold in _folds(len(right))], dtype=np.float64)


def fold_decisions(distances: Distances, is_same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pairs are accepted at their fold's threshold, bool [P]; arguments and errors as of `fold_accuracies`."""
    count = len(distances)
    if count < FOLDS:
        raise DataError(f"verification: {count} pairs; at least {FOLDS} are needed for {FOLDS} folds")
    distances = np.maximum(distances, 0)  # alike embeddings may be rounded to below it
    # Right decisions, but for the number of different pairs, which no threshold changes.
    right = _below(distances, is_same, _THRESHOLDS) - _below(distances, ~is_same, _THRESHOLDS)
    best = (right.sum(axis=0) - right).argmax(axis=1)
    return np.concatenate([distances[fold] < _THRESHOLDS[best[n]] for n, fold in enumerate(_folds(count))])


def fold_true_accepts(distances: Distances, is_same: NDArray[np.bool_], far: float) -> NDArray[np.float64]:
    """VAL@FAR: the share of each fold's same pairs below the threshold at which the other folds' FAR is `far`, [10].

    Interpolation assumes that different pairs lie evenly between two thresholds. Where they do not, as when a network
    maps all images to about one point, and more than one of them passes beyond `far`, the threshold is the largest that
    keeps to `far`. Where no threshold below 4 lets so many pass, nothing is accepted. A fold without same pairs gives
    NaN.

    Args:
        distances: Squared distances of unit embeddings, [P].
        is_same: Which pairs are of one identity, bool [P].
        far: The false accept rate, above 0.
    """
    distances = np.maximum(distances, 0)  # alike embeddings may be rounded to below it, and before the first threshold
    accepted = _below(distances, ~is_same, _FINE_THRESHOLDS)
    counts = np.array([(~is_same[fold]).sum() for fold in _folds(len(distances))])
    rates = []
    for number, fold in enumerate(_folds(len(distances))):
        passed = (accepted.sum(axis=0) - accepted[number]) / max(int(counts.sum() - counts[number]), 1)
        threshold = 0.0
        if passed[-1] >= far:
            first = int((passed >= far).argmax())
            step = (far - passed[first - 1]) / (passed[first] - passed[first - 1])
            threshold = _FINE_THRESHOLDS[first - 1] + step * (_FINE_THRESHOLDS[first] - _FINE_THRESHOLDS[first - 1])
            threshold = _kept_to(far, threshold, distances, ~is_same, fold)
        same = distances[fold][is_same[fold]]
        rates.append((same < threshold).mean() if same.size else np.nan)
    return np.array(rates, dtype=np.float64)


def _kept_to(far: float, threshold: float, distances: Distances, is_different: NDArray[np.bool_], fold: slice) -> float:
    """`threshold`, or the largest that keeps to `far` on the other folds if more than one pair passes beyond it."""
    rest = [distances[part][is_different[part]] for part in (slice(0, fold.start), slice(fold.stop, len(distances)))]
    allowed = far * sum(map(len, rest))
    if sum(int((part < threshold).sum()) for part in rest) <= allowed + 1:
        return threshold
    return float(np.partition(np.concatenate(rest), int(allowed))[int(allowed)])


def _below(distances: Distances, chosen: NDArray[np.bool_], thresholds: NDArray[np.float64]) -> Indices:
    """How many of the chosen pairs of each fold lie below each threshold, int64 [10, thresholds]."""

    def count(fold: slice) -> Indices:
        place = np.searchsorted(thresholds, distances[fold][chosen[fold]], side="right")
        counted: Indices = np.cumsum(np.bincount(place, minlength=len(thresholds) + 1))[:-1]
        return counted

    return np.stack(on_all_cores(count, _folds(len(distances))))


def _folds(count: int) -> list[slice]:
    """Ten consecutive parts of the pairs, as `numpy.array_split` makes them."""
    sizes = np.full(FOLDS, count // FOLDS)
    sizes[: count % FOLDS] += 1
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes.tolist(), strict=True)]
