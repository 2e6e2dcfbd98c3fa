"""A verification measured by several scores, each with every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import ConfigError, nearest
from ...config.choices import Score
from ..cores import Progress, no_progress
from ..pairs.folds import fold_decisions, fold_true_accepts
from ..pairs.receiver_curve import ReceiverCurve
from ..pairs.true_accepts import ScoredPairs
from ..pairs.verification import VerificationResult, verification_result
from .combining import Combination, Combined, combine_scores
from .midpoint_folds import consecutive_folds, interleaved_folds, midpoint_decisions, true_accepts_by_fold

__all__ = ["EMBEDDING_ALONE", "SCORES", "ScoredSet", "ScoresResult", "check_scores", "measure_scores"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

SCORES: tuple[Score, ...] = ("embedding", "matcher", "combined")
EMBEDDING_ALONE: tuple[Score, ...] = ("embedding",)
_VAL_FAR = 1e-3


@dataclass(frozen=True)
class ScoredSet:
    """The pairs of a verification with the cosine and the matcher's score of each."""

    pairs: Indices
    """int64 [P, 3] of the protocol: image, image, 1 for the same identity; ten consecutive parts are its folds."""
    cosines: Floats
    """Of these, [P]."""
    matches: Floats | None
    """The matcher's scores [P]; None without a matcher."""
    many: ScoredPairs
    """The pairs that TAR@FAR is measured on, with their cosines [S]."""
    many_images: Indices
    """Their images, int64 [S, 2]."""
    many_matches: Floats | None
    listed: bool
    """Whether these are the pairs of the protocol, in its order."""


@dataclass(frozen=True)
class ScoresResult:
    """The result of each score; `many` are the scored pairs of each, for curves and histograms."""

    results: Mapping[str, VerificationResult]
    many: Mapping[str, ScoredPairs]
    weights: tuple[float, float] | None = None
    """Mean weights of embedding and matcher in the combined score."""
    fallback: bool | None = None
    """Whether the matcher was no better than chance in any fold, so that its fallback weights were used."""
    fallback_folds: int = 0
    images: Indices = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    """int64 [S, 2], the images of the scored pairs."""

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "verification"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the pairs cannot resolve."""
        return next(iter(self.results.values())).warnings

    @property
    def values(self) -> dict[str, Any]:
        """All figures by SCORE.METRIC."""
        found = {
            f"{score}.{name}": value for score, result in self.results.items() for name, value in asdict(result).items()
        }
        if self.weights is not None:
            found |= {
                "combined.weight_embedding": self.weights[0],
                "combined.weight_matcher": self.weights[1],
                "combined.fallback": self.fallback,
                "combined.fallback_folds": self.fallback_folds,
            }
        return found


def check_scores(scores: Sequence[str], *, matcher: bool, setting: str) -> None:
    """Refuse scores that cannot be computed.

    Raises:
        ConfigError: one is unknown or named twice, or there is no matcher.
    """
    for number, score in enumerate(scores):
        if score not in SCORES:
            raise ConfigError(f"{setting}: no score '{score}'; {nearest(score, SCORES)}")
        if score in scores[:number]:
            raise ConfigError(f"{setting}: '{score}' is named twice")
    if not scores:
        raise ConfigError(f"{setting}: name at least one of {', '.join(SCORES)}")
    if not matcher and (needing := [score for score in scores if score != "embedding"]):
        raise ConfigError(
            f"{setting}: {needing[0]} needs a matcher, and this model has none; train it with a loss qaconv, or ask "
            "for embedding alone"
        )


def measure_scores(
    scored: ScoredSet, scores: Sequence[Score], combination: Combination, report: Progress = no_progress
) -> ScoresResult:
    """Every metric of every score.

    Args:
        scored: The pairs, with cosines and the matcher's scores.
        scores: Which scores are measured.
        combination: How the combined one is made.
        report: Called with what is done.

    Raises:
        DataError: fewer pairs than folds.
    """
    is_same = scored.pairs[:, 2] == 1
    folds = consecutive_folds(len(is_same))
    found: dict[str, VerificationResult] = {}
    many: dict[str, ScoredPairs] = {}
    combined: Combined | None = None
    of_many: NDArray[np.floating]
    for score in scores:
        if score == "embedding" or scored.matches is None or scored.many_matches is None:
            distances = 2 - 2 * scored.cosines
            accepted = fold_decisions(distances, is_same)
            accepts, of_many = fold_true_accepts(distances, is_same, _VAL_FAR), scored.many.scores
        elif score == "matcher":
            accepted = midpoint_decisions(scored.matches, is_same, folds)
            accepts = true_accepts_by_fold(scored.matches, is_same, folds, _VAL_FAR)
            of_many = scored.many_matches
        else:
            combined = combine_scores(scored.cosines, scored.matches, is_same, folds, combination)
            accepted = combined.accepted
            accepts = true_accepts_by_fold(combined.scores, is_same, folds, _VAL_FAR)
            of_many = _combined_of_many(scored, combined, combination)
        right = accepted == is_same
        many[score] = ScoredPairs(of_many, scored.many.is_same, scored.many.identities)
        found[score] = verification_result(
            np.array([right[fold].mean() for fold in folds]),
            len(is_same),
            many[score],
            ReceiverCurve(of_many, scored.many.is_same),
            accepts,
            report,
        )
    if combined is None:
        return ScoresResult(found, many, images=scored.many_images)
    weights = combined.weights.mean(axis=0)
    return ScoresResult(
        found,
        many,
        (float(weights[0]), float(weights[1])),
        bool(combined.fallback.any()),
        int(combined.fallback.sum()),
        scored.many_images,
    )


def _combined_of_many(scored: ScoredSet, combined: Combined, combination: Combination) -> NDArray[np.float64]:
    """The combined score of the pairs of TAR@FAR.

    Other pairs than the protocol's lie kind by kind, so that consecutive folds would differ in what they hold; every
    tenth pair is a fold then.
    """
    if scored.listed or scored.many_matches is None:
        return combined.scores
    many = scored.many
    folds = interleaved_folds(len(many.scores))
    return combine_scores(many.scores, scored.many_matches, many.is_same, folds, combination).scores
