"""An embedded data set measured by several scores: which pairs are scored, and by what."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ....errors import ConfigError
from ...config.choices import Score
from ...data.dataset import Dataset
from ...embedding.unit_embeddings import unit_rows
from ..cores import Progress, no_progress
from ..matched_images import MatchedImages
from ..pairs.pair_scores import pair_cosines
from ..pairs.verification import measurable_metrics, scored_pairs
from ..plan import EvaluationPlan
from .combining import EVEN, Combination
from .pair_matching import PairMatcher, ReadImages, match_pairs
from .score_results import EMBEDDING_ALONE, ScoredSet, ScoresResult, check_scores, measure_scores

__all__ = ["PairScoring", "ScoreSettings", "measure_by_scores", "plan_scores"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MOST_MATCHED = (4_000, 16_000)
"""Pairs of one identity and of two that TAR@FAR is measured on where a matcher scores them: enough for FAR 1e-4. A
matching is a thousand times the work of a cosine, and all scores are measured on the same pairs."""


@dataclass(frozen=True)
class ScoreSettings:
    """Which scores are measured, and how."""

    scores: tuple[Score, ...] = EMBEDDING_ALONE
    combination: Combination = EVEN
    matcher: PairMatcher | None = None
    """Of the model; None for one without."""

    @property
    def alone(self) -> bool:
        """Whether the embedding alone is measured, as it always was."""
        return self.scores == EMBEDDING_ALONE


def plan_scores(plan: EvaluationPlan, dataset: Dataset, scores: tuple[Score, ...]) -> EvaluationPlan:
    """The plan with the metrics of each score, SCORE.METRIC; those of the combined score come first.

    Raises:
        ConfigError: the data are not measured by verification.
    """
    if scores == EMBEDDING_ALONE:
        return plan
    if plan.protocol != "verification":
        raise ConfigError(
            f"evaluation.scores: a matcher scores pairs, and {dataset.name} is measured by {plan.protocol}; set "
            "evaluation.protocol=verification, or leave the scores out"
        )
    known = dataset.pairs is None
    metrics = measurable_metrics(dataset.identities, plan.pairs, known_identities=known, most=MOST_MATCHED)
    first = sorted(scores, key=lambda score: score != "combined")
    return replace(
        plan, metrics=tuple(f"{score}.{metric}" for score in first for metric in metrics if metric != "rank1")
    )


@dataclass(frozen=True)
class PairScoring:
    """Scores asked of a set of images."""

    settings: ScoreSettings
    read: ReadImages
    """Reads images of the data set that is measured, as it was read: numbers are those of `MatchedImages.positions`."""
    flip: bool
    """Whether mirror images take part."""
    batch: int
    """Images described in one call."""


def measure_by_scores(
    matched: MatchedImages, embeddings: Floats, scoring: PairScoring, report: Progress = no_progress
) -> ScoresResult:
    """Score the pairs of a verification, and measure each score.

    Args:
        matched: The images and the plan.
        embeddings: float32 [N, D], of the images of `matched`.
        scoring: Which scores, and how images are read for the matcher.
        report: Called with what is done.

    Raises:
        ConfigError: a score needs a matcher, and there is none; or the data are not measured by verification.
        GateError: embeddings or scores are not finite.
    """
    dataset, settings = matched.dataset, scoring.settings
    pairs = plan_scores(matched.plan, dataset, settings.scores).pairs
    check_scores(settings.scores, matcher=settings.matcher is not None, setting="evaluation.scores")
    unit, listed = unit_rows(embeddings), dataset.pairs is not None
    many, images = scored_pairs(
        unit, dataset.identities, pairs, known_identities=not listed, report=report, most=MOST_MATCHED
    )

    def matches_of(asked: Indices) -> Floats | None:
        if settings.matcher is None or settings.alone:
            return None
        return match_pairs(
            settings.matcher,
            lambda numbers: scoring.read(matched.positions[numbers]),
            asked,
            flip=scoring.flip,
            batch=scoring.batch,
            report=report,
        )

    matches = matches_of(pairs)
    scored = ScoredSet(
        pairs=pairs,
        cosines=many.scores if listed else pair_cosines(unit, pairs, report),
        matches=matches,
        many=many,
        many_images=images,
        many_matches=matches if listed else matches_of(images),
        listed=listed,
    )
    return measure_scores(scored, settings.scores, settings.combination, report)
