"""Verification metrics: 10-fold accuracy as on LFW, and the true accept rate at a false accept rate.

Protocol (Huang et al. 2007, in insightface's form): squared distances of unit embeddings, thresholds 0 to 4 in steps of
0.01, unshuffled folds, the threshold with the best accuracy on nine folds (the first of equals) applied to the tenth.
TAR@FAR is the highest TAR among thresholds whose FAR does not exceed the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["VerificationResult", "fold_accuracies", "measure_verification", "true_accept_rate"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

FOLDS = 10
MOST_FOR_ALL_PAIRS = 4000
_CHUNK = 512
_THRESHOLDS = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class VerificationResult:
    """Shares in 0..1. `accuracy_std` is the deviation over the folds."""

    accuracy: float
    accuracy_std: float
    tar_at_far_1e2: float
    tar_at_far_1e3: float
    rank1: float | None
    """Share of images whose nearest other image is of the same identity; None for fixed pairs."""
    pairs: int

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "verification"


def measure_verification(
    embeddings: Floats, identities: Indices, pairs: Indices, *, known_identities: bool = True
) -> VerificationResult:
    """Verify `pairs` [P, 3] of the images with `embeddings` [N, D].

    With known identities TAR@FAR is taken over every pair of images, up to `MOST_FOR_ALL_PAIRS` images; else over
    the listed pairs, as in protocols that list theirs.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    similar = np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]])
    is_same = pairs[:, 2] == 1
    accuracies = fold_accuracies(2 - 2 * similar, is_same)
    every = known_identities and len(unit) <= MOST_FOR_ALL_PAIRS
    scores, same = _every_pair(unit, identities) if every else (similar, is_same)
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        tar_at_far_1e2=true_accept_rate(scores, same, 1e-2),
        tar_at_far_1e3=true_accept_rate(scores, same, 1e-3),
        rank1=_nearest_is_same(unit, identities) if known_identities else None,
        pairs=len(pairs),
    )


def fold_accuracies(distances: Floats, is_same: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Accuracy on each of ten consecutive folds of the pairs, at the other folds' best threshold: float64 [10].

    Raises:
        DataError: fewer pairs than folds.
    """
    count = len(distances)
    if count < FOLDS:
        raise DataError(f"verification: {count} pairs; at least {FOLDS} are needed for {FOLDS} folds")
    right = (distances[None, :] < _THRESHOLDS[:, None]) == is_same[None, :]
    accuracies = []
    for fold in np.array_split(np.arange(count), FOLDS):
        rest = np.ones(count, dtype=bool)
        rest[fold] = False
        best = int(right[:, rest].mean(axis=1).argmax())
        accuracies.append(right[best, fold].mean())
    return np.array(accuracies, dtype=np.float64)


def true_accept_rate(scores: Floats, is_same: NDArray[np.bool_], far: float) -> float:
    """Share of same pairs above the lowest threshold that lets through at most `far` of the different pairs."""
    negatives = np.sort(scores[~is_same])[::-1]
    if not negatives.size or not is_same.any():
        return float("nan")
    allowed = int(np.floor(far * negatives.size))
    if allowed >= negatives.size:
        return 1.0
    return float((scores[is_same] > negatives[allowed]).mean())


def _every_pair(unit: Floats, identities: Indices) -> tuple[Floats, NDArray[np.bool_]]:
    first, second = np.triu_indices(len(unit), 1)
    return (unit @ unit.T)[first, second], identities[first] == identities[second]


def _nearest_is_same(unit: Floats, identities: Indices) -> float:
    nearest = []
    for start in range(0, len(unit), _CHUNK):
        similar = unit[start : start + _CHUNK] @ unit.T
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = -np.inf
        nearest.append(similar.argmax(axis=1))
    return float((identities[np.concatenate(nearest)] == identities).mean())
