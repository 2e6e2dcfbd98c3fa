"""Verification metrics: 10-fold accuracy and VAL@FAR as on LFW, and the true accept rate at false accept rates.

Protocol (Huang et al., "Labeled Faces in the Wild", 2007, in insightface's form): squared distances of unit embeddings,
thresholds 0 to 4 in steps of 0.01, unshuffled folds; the threshold with the best accuracy on nine folds (the first of
equals) is applied to the tenth. VAL@FAR: thresholds in steps of 0.001; the threshold at which nine folds have the FAR,
interpolated linearly, gives the tenth fold's share of true accepts. TAR@FAR (`true_accepts`) is the highest TAR among
thresholds whose FAR does not exceed the target; it needs 1 / FAR pairs of two identities, and is None with fewer.
Where identities are known it is measured on up to a million pairs, balanced over identities like the others at any
number of images; where pairs are listed, on these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

<<<<<<< HEAD:finetune/evaluation/verification.py
from ...errors import DataError
from ..data.pair_drawing import draw_different_pairs, draw_same_pairs
from ..embedding.unit_embeddings import unit_rows
from .true_accepts import ScoredPairs, true_accept_intervals, true_accept_rate
=======
from ....errors import DataError
from ...data.pair_drawing import draw_different_pairs, draw_same_pairs
from .true_accepts import ScoredPairs, true_accept_intervals, true_accept_rate
from ..unit_embeddings import unit_rows
>>>>>>> cf53e47 (Count the ranks of retrieval and re-rank through neighbour lists):finetune/evaluation/pairs/verification.py

__all__ = [
    "VERIFICATION_METRICS",
    "VerificationResult",
    "fold_accuracies",
    "fold_true_accepts",
    "measurable_metrics",
    "measure_verification",
    "scored_pairs",
]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

FOLDS = 10
MOST_DIFFERENT = 1_000_000
"""Pairs of two identities that TAR@FAR is measured on: enough for FAR 1e-6."""
MOST_SAME = 100_000
TRUE_ACCEPTS = {"tar_at_far_1e2": 1e-2, "tar_at_far_1e3": 1e-3, "tar_at_far_1e4": 1e-4}
"""False accept rates, by the field of a result."""
VERIFICATION_METRICS = (
    "accuracy",
    "tar_at_far_1e2",
    "tar_at_far_1e3",
    "tar_at_far_1e4",
    "val_at_far_1e3",
    "rank1",
)
"""Fields of a result that are better when larger, the usual one first; the labels decide which can be measured."""

_CHUNK = 512
_PAIRS_AT_ONCE = 1 << 16
_THRESHOLDS = np.arange(0, 4, 0.01)
_FINE_THRESHOLDS = np.arange(0, 4, 0.001)


@dataclass(frozen=True)
class VerificationResult:
    """Shares in 0..1 over `pairs` pairs. `accuracy_std` is the standard deviation over the folds."""

    accuracy: float
    accuracy_std: float
    tar_at_far_1e2: float | None
    """None, like the next two, with fewer than 1 / FAR pairs of two identities."""
    tar_at_far_1e3: float | None
    tar_at_far_1e4: float | None
    val_at_far_1e3: float
    """Mean over the folds."""
    rank1: float | None
    """Share of images whose nearest other image is of the same identity, among those whose identity has another image;
    None for fixed pairs."""
    pairs: int
    same_pairs: int
    """Pairs of one identity that TAR@FAR is measured on."""
    different_pairs: int
    """Pairs of two identities that FAR is measured on."""
    tar_low: dict[str, float | None] = field(default_factory=dict)
    """Lower end of the 95 % bootstrap interval over identities of each TAR@FAR, by its field; None where it is None."""
    tar_high: dict[str, float | None] = field(default_factory=dict)
    """Upper ends likewise."""
    single_image_identities: int = 0
    """Identities with one image: in no pair of one identity, and not asked for by rank1."""

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
        identities: int64 [N]; -1 for images of nobody, which rank1 may find but does not ask for.
        pairs: int64 [P, 3]: image, image, 1 for the same identity; the folds are ten consecutive parts of them.
        known_identities: Whether `identities` are real. TAR@FAR is then measured on up to a million pairs drawn from
            them; else on `pairs`, as in protocols that list theirs.

    Raises:
        DataError: fewer pairs than folds.
        GateError: embeddings are not finite.
    """
    unit = unit_rows(embeddings)
    distances = 2 - 2 * _cosines(unit, pairs)
    is_same = pairs[:, 2] == 1
    accuracies = fold_accuracies(distances, is_same)
    scored = scored_pairs(unit, identities, pairs, known_identities=known_identities)
    rates = {
        name: true_accept_rate(scored.scores, scored.is_same, far) if scored.resolves(far) else None
        for name, far in TRUE_ACCEPTS.items()
    }
    intervals = true_accept_intervals(scored, list(TRUE_ACCEPTS.values()))
    counts = np.bincount(identities[identities >= 0]) if known_identities else np.zeros(0, dtype=np.int64)
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        **rates,
        val_at_far_1e3=float(fold_true_accepts(distances, is_same, 1e-3).mean()),
        rank1=_nearest_is_same(unit, identities) if known_identities else None,
        pairs=len(pairs),
        same_pairs=scored.same,
        different_pairs=scored.different,
        tar_low={name: ends[0] if (ends := intervals[far]) else None for name, far in TRUE_ACCEPTS.items()},
        tar_high={name: ends[1] if (ends := intervals[far]) else None for name, far in TRUE_ACCEPTS.items()},
        single_image_identities=int((counts == 1).sum()),
    )


def scored_pairs(unit: Floats, identities: Indices, pairs: Indices, *, known_identities: bool) -> ScoredPairs:
    """The pairs that TAR@FAR is measured on (see `measure_verification`), with their cosines.

    Of listed pairs, images joined by a chain of same pairs are taken to show one identity.
    """
    if known_identities:
        pairs, people = _many_pairs(identities), identities
    else:
        people = _joined_by_same(len(unit), pairs)
    return ScoredPairs(_cosines(unit, pairs), pairs[:, 2] == 1, people[pairs[:, :2]])


def measurable_metrics(identities: Indices, pairs: Indices, *, known_identities: bool) -> tuple[str, ...]:
    """The metrics that the labels allow, the usual one first; arguments as of `measure_verification`."""
    is_same = (_many_pairs(identities) if known_identities else pairs)[:, 2] == 1
    scored = ScoredPairs(np.zeros(len(is_same), dtype=np.float32), is_same, np.zeros((len(is_same), 2), dtype=np.int64))
    lacking = {name for name, far in TRUE_ACCEPTS.items() if not scored.resolves(far)}
    if not known_identities:
        lacking.add("rank1")
    return tuple(name for name in VERIFICATION_METRICS if name not in lacking)


def _many_pairs(identities: Indices) -> Indices:
    """Pairs [P, 3] for TAR@FAR, drawn as `draw_pairs` draws its few."""
    rng = np.random.default_rng(0)
    drawn = (draw_same_pairs(identities, MOST_SAME, rng), draw_different_pairs(identities, MOST_DIFFERENT, rng))
    return np.concatenate([np.insert(part, 2, flag, axis=1) for flag, part in zip((1, 0), drawn, strict=True)])


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


def _cosines(unit: Floats, pairs: Indices) -> Floats:
    cosines = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        cosines[rows] = np.einsum("pd,pd->p", unit[pairs[rows, 0]], unit[pairs[rows, 1]])
    return cosines


def _folds(count: int) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """Positions of each fold, and which of all pairs are in the others."""
    for fold in np.array_split(np.arange(count), FOLDS):
        rest = np.ones(count, dtype=bool)
        rest[fold] = False
        yield fold, rest


def _nearest_is_same(unit: Floats, identities: Indices) -> float | None:
    """None where no identity has two images."""
    known = identities >= 0
    asked = np.flatnonzero(known & (np.bincount(identities[known])[identities] > 1))
    if not asked.size:
        return None
    nearest = []
    for start in range(0, len(asked), _CHUNK):
        rows = asked[start : start + _CHUNK]
        similar = unit[rows] @ unit.T
        similar[np.arange(len(rows)), rows] = -np.inf
        nearest.append(similar.argmax(axis=1))
    return float((identities[np.concatenate(nearest)] == identities[asked]).mean())


def _joined_by_same(count: int, pairs: Indices) -> Indices:
    """A number for each of `count` images, equal for those that a chain of same pairs joins: int64 [count]."""
    first, second = pairs[pairs[:, 2] == 1, :2].T
    labels = np.arange(count)
    while True:
        least = np.minimum(labels[first], labels[second])
        joined = labels.copy()
        np.minimum.at(joined, first, least)
        np.minimum.at(joined, second, least)
        joined = joined[joined]
        if (joined == labels).all():
            return np.unique(labels, return_inverse=True)[1].astype(np.int64)
        labels = joined
