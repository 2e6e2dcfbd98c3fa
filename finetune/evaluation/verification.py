"""Verification metrics: 10-fold accuracy and VAL@FAR as on LFW, and the true accept rate at false accept rates (ROC).

Protocol (Huang et al., "Labeled Faces in the Wild", 2007, in insightface's form): squared distances of unit embeddings,
thresholds 0 to 4 in steps of 0.01, unshuffled folds; the threshold with the best accuracy on nine folds (the first of
equals) is applied to the tenth. VAL@FAR: thresholds in steps of 0.001; the threshold at which nine folds have the FAR,
interpolated linearly, gives the tenth fold's share of true accepts. TAR@FAR is the highest TAR among thresholds whose
FAR does not exceed the target; with fewer than 1 / FAR different pairs, none of them may pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .unit_embeddings import unit_rows

__all__ = [
    "VERIFICATION_METRICS",
    "VerificationResult",
    "fold_accuracies",
    "fold_true_accepts",
    "measure_verification",
    "roc_curve",
    "scored_pairs",
    "true_accept_rate",
]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

FOLDS = 10
MOST_FOR_ALL_PAIRS = 4000
VERIFICATION_METRICS = (
    "accuracy",
    "tar_at_far_1e2",
    "tar_at_far_1e3",
    "tar_at_far_1e4",
    "val_at_far_1e3",
    "rank1",
)
"""Fields of a result that are better when larger, the usual one first."""

_CHUNK = 512
_THRESHOLDS = np.arange(0, 4, 0.01)
_FINE_THRESHOLDS = np.arange(0, 4, 0.001)


@dataclass(frozen=True)
class VerificationResult:
    """Shares in 0..1 over `pairs` pairs. `accuracy_std` is the standard deviation over the folds."""

    accuracy: float
    accuracy_std: float
    tar_at_far_1e2: float
    tar_at_far_1e3: float
    tar_at_far_1e4: float
    val_at_far_1e3: float
    """Mean over the folds."""
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
    """Decide for pairs of images whether they show one identity, and measure how often that is right.

    Args:
        embeddings: float32 [N, D] of any length; they are normalised here.
        identities: int64 [N].
        pairs: int64 [P, 3]: image, image, 1 for the same identity; the folds are ten consecutive parts of them.
        known_identities: Whether `identities` are real. TAR@FAR is then measured over every pair of images, up to
            `MOST_FOR_ALL_PAIRS` images; else, and beyond that, over `pairs`, as in protocols that list theirs.

    Raises:
        DataError: fewer pairs than folds.
        GateError: embeddings are not finite.
    """
    unit = unit_rows(embeddings)
    similar = np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]])
    is_same = pairs[:, 2] == 1
    distances = 2 - 2 * similar
    accuracies = fold_accuracies(distances, is_same)
    scores, same = scored_pairs(unit, identities, pairs, known_identities=known_identities)
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        tar_at_far_1e2=true_accept_rate(scores, same, 1e-2),
        tar_at_far_1e3=true_accept_rate(scores, same, 1e-3),
        tar_at_far_1e4=true_accept_rate(scores, same, 1e-4),
        val_at_far_1e3=float(fold_true_accepts(distances, is_same, 1e-3).mean()),
        rank1=_nearest_is_same(unit, identities) if known_identities else None,
        pairs=len(pairs),
    )


def scored_pairs(
    unit: Floats, identities: Indices, pairs: Indices, *, known_identities: bool
) -> tuple[Floats, NDArray[np.bool_]]:
    """Cosines of the pairs that TAR@FAR is measured on (see `measure_verification`), and which are of one identity."""
    if known_identities and len(unit) <= MOST_FOR_ALL_PAIRS:
        first, second = np.triu_indices(len(unit), 1)
        return (unit @ unit.T)[first, second], identities[first] == identities[second]
    return np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]]), pairs[:, 2] == 1


def fold_accuracies(distances: Floats, is_same: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Accuracy on each of ten consecutive folds of the pairs, at the other folds' best threshold: float64 [10].

    Args:
        distances: Squared distances of unit embeddings, [P].
        is_same: Which pairs are of one identity, bool [P].

    Raises:
        DataError: fewer pairs than folds.
    """
    count = len(distances)
    if count < FOLDS:
        raise DataError(f"verification: {count} pairs; at least {FOLDS} are needed for {FOLDS} folds")
    distances = np.maximum(distances, 0)  # alike embeddings may be rounded to below it
    right = (distances[None, :] < _THRESHOLDS[:, None]) == is_same[None, :]
    accuracies = []
    for fold, rest in _folds(count):
        best = int(right[:, rest].mean(axis=1).argmax())
        accuracies.append(right[best, fold].mean())
    return np.array(accuracies, dtype=np.float64)


def fold_true_accepts(distances: Floats, is_same: NDArray[np.bool_], far: float) -> NDArray[np.float64]:
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
    rates = []
    for fold, rest in _folds(len(distances)):
        different = np.sort(distances[rest][~is_same[rest]])
        passed = np.searchsorted(different, _FINE_THRESHOLDS) / max(len(different), 1)
        threshold = 0.0
        if passed[-1] >= far:
            first = int((passed >= far).argmax())
            step = (far - passed[first - 1]) / (passed[first] - passed[first - 1])
            threshold = _FINE_THRESHOLDS[first - 1] + step * (_FINE_THRESHOLDS[first] - _FINE_THRESHOLDS[first - 1])
            allowed = far * len(different)
            if np.searchsorted(different, threshold) > allowed + 1:
                threshold = different[int(allowed)]
        same = distances[fold][is_same[fold]]
        rates.append((same < threshold).mean() if same.size else np.nan)
    return np.array(rates, dtype=np.float64)


def roc_curve(scores: Floats, is_same: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """(FAR, TAR) at ten FARs per decade up to 1, from the decade in which one of the different pairs passes.

    Args:
        scores: Cosines [P].
        is_same: Which pairs are of one identity, bool [P].
    """
    decades = math.ceil(math.log10(max(int((~is_same).sum()), 1)))
    rates = 10.0 ** (np.arange(-10 * decades, 1) / 10)
    return tuple((float(far), true_accept_rate(scores, is_same, float(far))) for far in rates)


def true_accept_rate(scores: Floats, is_same: NDArray[np.bool_], far: float) -> float:
    """Share of same pairs above the lowest threshold that at most the share `far` of the different pairs exceeds.

    NaN without pairs of either kind.
    """
    negatives = np.sort(scores[~is_same])[::-1]
    if not negatives.size or not is_same.any():
        return float("nan")
    allowed = int(np.floor(far * negatives.size))
    if allowed >= negatives.size:
        return 1.0
    return float((scores[is_same] > negatives[allowed]).mean())


def _folds(count: int) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """Positions of each fold, and which of all pairs are in the others."""
    for fold in np.array_split(np.arange(count), FOLDS):
        rest = np.ones(count, dtype=bool)
        rest[fold] = False
        yield fold, rest


def _nearest_is_same(unit: Floats, identities: Indices) -> float:
    nearest = []
    for start in range(0, len(unit), _CHUNK):
        similar = unit[start : start + _CHUNK] @ unit.T
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = -np.inf
        nearest.append(similar.argmax(axis=1))
    return float((identities[np.concatenate(nearest)] == identities).mean())
