"""Verification metrics: 10-fold accuracy and VAL@FAR as on LFW, TAR@FAR, equal error rate, area under the ROC.

Accuracy and VAL@FAR (`folds`) are of the pairs of the protocol. TAR@FAR (`true_accepts`) is the highest TAR among
thresholds whose FAR does not exceed the target; it needs 1 / FAR pairs of two identities, and is None with fewer. It is
measured, like the equal error rate and the area under the ROC (`receiver_curve`), on up to a million pairs where
identities are known, balanced over identities like the others at any number of images; where pairs are listed, on
these.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...data.pair_drawing import draw_different_pairs, draw_same_pairs
from ...embedding.unit_embeddings import unit_rows
from ..cores import Progress, blocks, no_progress
from .folds import fold_accuracies, fold_true_accepts
from .pair_scores import pair_cosines
from .receiver_curve import ReceiverCurve
from .true_accepts import ScoredPairs, true_accept_intervals

__all__ = [
    "TRUE_ACCEPTS",
    "VERIFICATION_METRICS",
    "ComparedPairs",
    "VerificationResult",
    "compare_pairs",
    "joined_by_same",
    "measurable_metrics",
    "measure_verification",
    "scored_pairs",
    "verification_result",
]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MOST_DIFFERENT = 1_000_000
"""Pairs of two identities that TAR@FAR is measured on: enough for FAR 1e-6."""
MOST_SAME = 100_000
TRUE_ACCEPTS = {f"tar_at_far_1e{power}": 10.0**-power for power in range(1, 7)}
"""False accept rates, by the field of a result."""
VERIFICATION_METRICS = ("accuracy", *TRUE_ACCEPTS, "val_at_far_1e3", "auc", "rank1")
"""Fields of a result that are better when larger, the usual one first; the labels decide which can be measured."""


@dataclass(frozen=True)
class VerificationResult:
    """Shares in 0..1 over `pairs` pairs. `accuracy_std` is the standard deviation over the folds."""

    accuracy: float
    accuracy_std: float
    tar_at_far_1e1: float | None
    """None, like the next five, with fewer than 1 / FAR pairs of two identities."""
    tar_at_far_1e2: float | None
    tar_at_far_1e3: float | None
    tar_at_far_1e4: float | None
    tar_at_far_1e5: float | None
    tar_at_far_1e6: float | None
    val_at_far_1e3: float
    """Mean over the folds."""
    eer: float
    """The rate at which as many different pairs are accepted as same pairs are refused; smaller is better."""
    auc: float
    """Area under the ROC."""
    rank1: float | None
    """Share of images whose nearest other image is of the same identity, among those whose identity has another image;
    None for fixed pairs."""
    pairs: int
    same_pairs: int
    """Pairs of one identity that TAR@FAR is measured on."""
    different_pairs: int
    """Pairs of two identities (impostors) that FAR is measured on."""
    impostors: dict[str, int] = field(default_factory=dict)
    """How many of `different_pairs` may pass at the threshold of each TAR@FAR, by its field: 0 cannot be measured."""
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

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line about the false accept rates that the pairs cannot resolve."""
        lacking = [far for name, far in TRUE_ACCEPTS.items() if getattr(self, name) is None]
        if not lacking:
            return ()
        rates = ", ".join(f"{far:.0e}".replace("e-0", "e-") for far in lacking)
        return (
            f"TAR at FAR {rates} is not measured: {self.different_pairs:,} pairs of two identities are fewer than "
            f"1 / FAR, {round(1 / lacking[0]):,} at least",
        )


@dataclass(frozen=True)
class ComparedPairs:
    """The pairs of a verification with their similarities."""

    distances: Floats
    """Squared distances of unit embeddings of the protocol's pairs, [P]."""
    is_same: NDArray[np.bool_]
    """Which of them are of one identity, [P]."""
    identities: Indices
    """Whom their images show, int64 [P, 2]."""
    scored: ScoredPairs
    """The pairs that TAR@FAR is measured on."""
    scored_images: Indices
    """Their images, int64 [S, 2]."""
    curve: ReceiverCurve
    """Of the scored pairs."""
    rank1: float | None
    single_image_identities: int

    def result(self, report: Progress = no_progress) -> VerificationResult:
        """Every metric.

        Raises:
            DataError: fewer pairs than folds.
        """
        accuracies = fold_accuracies(self.distances, self.is_same)
        accepts = fold_true_accepts(self.distances, self.is_same, 1e-3)
        found = verification_result(accuracies, len(self.distances), self.scored, self.curve, accepts, report)
        return replace(found, rank1=self.rank1, single_image_identities=self.single_image_identities)


def verification_result(
    accuracies: NDArray[np.float64],
    pairs: int,
    scored: ScoredPairs,
    curve: ReceiverCurve,
    accepts: NDArray[np.float64],
    report: Progress = no_progress,
) -> VerificationResult:
    """Every metric of one score, but for rank1.

    Args:
        accuracies: Of each fold of the protocol's pairs, [10].
        pairs: Number of these pairs.
        scored: The pairs that TAR@FAR is measured on.
        curve: Of these.
        accepts: VAL@FAR of each fold, [10].
        report: Called with what is done.
    """
    rates = {name: curve.true_accept_rate(far) if scored.resolves(far) else None for name, far in TRUE_ACCEPTS.items()}
    intervals = true_accept_intervals(scored, list(TRUE_ACCEPTS.values()), report=report)
    ends = {name: intervals[far] or (None, None) for name, far in TRUE_ACCEPTS.items()}
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        **rates,
        val_at_far_1e3=float(accepts.mean()),
        eer=curve.equal_error_rate(),
        auc=curve.area(),
        rank1=None,
        pairs=pairs,
        same_pairs=scored.same,
        different_pairs=scored.different,
        impostors={name: int(far * scored.different * (1 + 1e-12)) for name, far in TRUE_ACCEPTS.items()},
        tar_low={name: low for name, (low, _) in ends.items()},
        tar_high={name: high for name, (_, high) in ends.items()},
        single_image_identities=0,
    )


def measure_verification(
    embeddings: Floats,
    identities: Indices,
    pairs: Indices,
    *,
    known_identities: bool = True,
    report: Progress = no_progress,
) -> VerificationResult:
    """Decide for pairs of images whether they show one identity, and measure how often that is right.

    Arguments as of `compare_pairs`.

    Raises:
        DataError: fewer pairs than folds.
        GateError: embeddings are not finite.
    """
    return compare_pairs(embeddings, identities, pairs, known_identities=known_identities, report=report).result(report)


def compare_pairs(
    embeddings: Floats,
    identities: Indices,
    pairs: Indices,
    *,
    known_identities: bool = True,
    report: Progress = no_progress,
) -> ComparedPairs:
    """Score the pairs of a protocol, and those that TAR@FAR is measured on.

    Args:
        embeddings: float32 [N, D] of any length; they are normalised here.
        identities: int64 [N]; -1 for images of nobody, which rank1 may find but does not ask for.
        pairs: int64 [P, 3]: image, image, 1 for the same identity; the folds are ten consecutive parts of them.
        known_identities: Whether `identities` are real. TAR@FAR is then measured on up to a million pairs drawn from
            them; else on `pairs`, as in protocols that list theirs.
        report: Called with what is done.

    Raises:
        GateError: embeddings are not finite.
    """
    unit = unit_rows(embeddings)
    scored, images = scored_pairs(unit, identities, pairs, known_identities=known_identities, report=report)
    counts = np.bincount(identities[identities >= 0]) if known_identities else np.zeros(0, dtype=np.int64)
    cosines = pair_cosines(unit, pairs, report) if known_identities else scored.scores
    return ComparedPairs(
        distances=2 - 2 * cosines,
        is_same=pairs[:, 2] == 1,
        identities=identities[pairs[:, :2]] if known_identities else scored.identities,
        scored=scored,
        scored_images=images,
        curve=ReceiverCurve(scored.scores, scored.is_same),
        rank1=_nearest_is_same(unit, identities, report) if known_identities else None,
        single_image_identities=int((counts == 1).sum()),
    )


def scored_pairs(
    unit: Floats,
    identities: Indices,
    pairs: Indices,
    *,
    known_identities: bool,
    report: Progress = no_progress,
    most: tuple[int, int] = (MOST_SAME, MOST_DIFFERENT),
) -> tuple[ScoredPairs, Indices]:
    """The pairs that TAR@FAR is measured on (see `compare_pairs`), with their cosines, and their images int64 [S, 2].

    Of listed pairs, images joined by a chain of same pairs are taken to show one identity. `most` bounds the drawn ones
    of one identity, and of two.
    """
    if known_identities:
        pairs, people = _many_pairs(identities, most), identities
    else:
        people = joined_by_same(len(unit), pairs)
    images = pairs[:, :2]
    return ScoredPairs(pair_cosines(unit, images, report), pairs[:, 2] == 1, people[images]), images


def measurable_metrics(
    identities: Indices,
    pairs: Indices,
    *,
    known_identities: bool,
    most: tuple[int, int] = (MOST_SAME, MOST_DIFFERENT),
) -> tuple[str, ...]:
    """The metrics that the labels allow, the usual one first; arguments as of `scored_pairs`."""
    is_same = (_many_pairs(identities, most) if known_identities else pairs)[:, 2] == 1
    scored = ScoredPairs(np.zeros(len(is_same), dtype=np.float32), is_same, np.zeros((len(is_same), 2), dtype=np.int64))
    lacking = {name for name, far in TRUE_ACCEPTS.items() if not scored.resolves(far)}
    if not known_identities:
        lacking.add("rank1")
    return tuple(name for name in VERIFICATION_METRICS if name not in lacking)


def _many_pairs(identities: Indices, most: tuple[int, int]) -> Indices:
    """Pairs [P, 3] for TAR@FAR, at most so many of one identity and of two, drawn as `draw_pairs` draws its few."""
    rng = np.random.default_rng(0)
    drawn = (draw_same_pairs(identities, most[0], rng), draw_different_pairs(identities, most[1], rng))
    return np.concatenate([np.insert(part, 2, flag, axis=1) for flag, part in zip((1, 0), drawn, strict=True)])


def _nearest_is_same(unit: Floats, identities: Indices, report: Progress) -> float | None:
    """None where no identity has two images."""
    known = identities >= 0
    asked = np.flatnonzero(known & (np.bincount(identities[known])[identities] > 1))
    if not asked.size:
        return None
    nearest = []
    for block in blocks(len(asked), len(unit)):
        rows = asked[block]
        similar = unit[rows] @ unit.T
        similar[np.arange(len(rows)), rows] = -np.inf
        nearest.append(similar.argmax(axis=1))
        report("finding the nearest image", block.stop, len(asked))
    return float((identities[np.concatenate(nearest)] == identities[asked]).mean())


def joined_by_same(count: int, pairs: Indices) -> Indices:
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
