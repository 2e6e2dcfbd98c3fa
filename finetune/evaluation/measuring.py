"""The measure of an embedded data set, by whichever protocol its labels or the user chose."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..data.dataset import Dataset
from .classification import ClassificationResult, measure_classification
from .cores import Progress, no_progress
from .matched_images import MatchedImages
from .own_function import OwnFunction, OwnResult, call_own
from .pairs.verification import ComparedPairs, VerificationResult, compare_pairs
from .plan import EvaluationPlan
from .ranks.retrieval import RankedRetrieval, RetrievalResult, rank_retrieval
from .scores.score_results import ScoresResult
from .scores.scoring import PairScoring, measure_by_scores

__all__ = ["EvaluationResult", "Measured", "measure", "measured_values", "write_roc"]

Floats = NDArray[np.float32]
EvaluationResult = RetrievalResult | VerificationResult | ClassificationResult | OwnResult | ScoresResult


@dataclass(frozen=True)
class Measured:
    """What was compared, and the figures."""

    matched: MatchedImages
    embeddings: Floats
    """float32 [n, D] of the images of `matched.dataset`."""
    result: EvaluationResult
    ranked: RankedRetrieval | None = None
    """Of a retrieval."""
    compared: ComparedPairs | None = None
    """Of a verification."""

    @property
    def dataset(self) -> Dataset:
        """The images that took part."""
        return self.matched.dataset

    @property
    def plan(self) -> EvaluationPlan:
        """Which of them met."""
        return self.matched.plan


def measure(
    matched: MatchedImages,
    embeddings: Floats,
    function: OwnFunction | None = None,
    progress: Progress = no_progress,
    scoring: PairScoring | None = None,
) -> Measured:
    """Measure embeddings float32 [n, D] of the images of `matched`.

    Args:
        matched: The images and the plan.
        embeddings: One for each.
        function: What the plan's protocol "function" calls.
        progress: Called with what is done.
        scoring: The scores by which pairs are compared, where these are several.

    Raises:
        ConfigError: `function` fails, or scores are asked of another protocol than verification.
        DataError: the embeddings do not fit the protocol.
        GateError: embeddings are not finite.
    """
    plan, dataset = matched.plan, matched.dataset
    if scoring is not None and not scoring.settings.alone:
        return Measured(matched, embeddings, measure_by_scores(matched, embeddings, scoring, progress))
    if plan.protocol == "function" and function is not None:
        return Measured(matched, embeddings, call_own(function, dataset, embeddings))
    if plan.protocol == "classification":
        return Measured(matched, embeddings, measure_classification(embeddings, dataset.identities, dataset.name))
    if plan.protocol == "retrieval":
        query, gallery = plan.query, plan.gallery
        ranked = rank_retrieval(
            embeddings[query],
            embeddings[gallery],
            dataset.identities[query],
            dataset.identities[gallery],
            dataset.cameras[query],
            dataset.cameras[gallery],
            ranking=plan.ranking,
            report=progress,
        )
        return Measured(matched, embeddings, ranked.result(), ranked=ranked)
    known = dataset.pairs is None
    compared = compare_pairs(embeddings, dataset.identities, plan.pairs, known_identities=known, report=progress)
    return Measured(matched, embeddings, compared.result(progress), compared=compared)


def measured_values(result: EvaluationResult) -> dict[str, Any]:
    """All figures of a result by name."""
    return dict(result.values) if isinstance(result, OwnResult | ScoresResult) else asdict(result)


def write_roc(path: Path, compared: ComparedPairs) -> None:
    """Write false and true accept rates as CSV, over the pairs that TAR@FAR is measured on.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("far", "tar"), *compared.curve.points()])
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
