"""How held-out data are measured, as a section of the configuration; the measures are in the room `evaluation`."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .choices import Score
from .section import Count, FilePath, NotNegative, Positive, Section, Share

__all__ = ["CombineConfig", "EvaluationConfig"]


class CombineConfig(Section):
    """How the cosine of embeddings and the score of a matcher become one; `fitted` alone stands for {fitted: true}."""

    embedding: NotNegative = 0.5
    """Weight of the cosine, standardised by mean and deviation of nine folds."""
    matcher: NotNegative = 0.5
    """Weight of the matcher's score, likewise."""
    fallback: tuple[NotNegative, NotNegative] | None = (0.8, 0.2)
    """Weights of both where the matcher is no better than chance on the nine folds; null keeps the others."""
    fitted: bool = False
    """Fit both weights by logistic regression on the nine folds."""

    @model_validator(mode="before")
    @classmethod
    def _said_in_a_word(cls, data: object) -> object:
        return {"fitted": True} if data == "fitted" else data

    @model_validator(mode="after")
    def _something_counts(self) -> CombineConfig:
        for name, weights in (("weights", (self.embedding, self.matcher)), ("fallback", self.fallback or (1.0, 1.0))):
            if not any(weights):
                raise ValueError(f"{name}: both are 0, so nothing would be scored; give one of them a weight")
        return self


class EvaluationConfig(Section):
    """How held-out data are measured."""

    protocol: Literal["retrieval", "verification", "classification"] | None = None
    """By default retrieval for data with cameras, else verification. classification takes `model.output` as scores of
    the identities of data.evaluate."""
    function: str | None = None
    """MODULE:NAME, a Python function of yours that measures instead of a protocol; it is given embeddings and labels,
    and returns a dict of numbers, one of which `metric` names. See `rtool.finetune.EvaluatedImages`."""
    first: bool = True
    """Measure the source model before the first step, so that the run can say what it gained; a search has none."""
    cache: FilePath | None = None
    """A folder that keeps the source model's embeddings, so that further runs from it need not compute them."""
    every: Positive = 1.0
    """Epochs between evaluations, such as 0.1, 0.5 or 4; the end of the run is always evaluated."""
    every_steps: Count | None = None
    """Optimizer steps between evaluations, instead of `every`."""
    flip: bool = True
    """Add the embedding of the mirror image."""
    batch: Count = 64
    """Images per batch."""
    metric: str | None = None
    """Metric that chooses the best checkpoint. Of retrieval mAP (the default), rank1, rank5, rank10, rank20 or mINP; of
    verification accuracy (the default), tar_at_far_1e1 to _1e6, val_at_far_1e3, auc or, without fixed pairs, rank1. Of
    several sets NAME.METRIC or mean.METRIC."""
    patience: Count | None = None
    """Evaluations in a row without a better `metric` after which the run stops early; null trains all epochs."""
    rerank: bool = False
    """Rank the gallery by k-reciprocal re-ranking."""
    rerank_k1: Count = 20
    """Nearest neighbours among which re-ranking looks for reciprocal ones."""
    rerank_k2: Count = 6
    """Nearest neighbours whose encodings re-ranking averages; 1 averages nothing."""
    rerank_lambda: Share = 0.3
    """Share of the original distance in that of re-ranking."""
    expand: Annotated[int, Field(ge=0)] = 0
    """Query expansion: nearest images, itself included, that each embedding is averaged with; 0 expands nothing."""
    expand_alpha: NotNegative = 3.0
    """Power of the cosine that weighs each of them."""
    multi_query: bool = False
    """Average the query images of one person and camera."""
    scores: Annotated[tuple[Score, ...], Field(min_length=1)] = ("embedding",)
    """By what pairs are compared: embedding (the cosine), matcher (that of a loss qaconv), combined (both). Metrics of
    several are SCORE.METRIC, such as combined.accuracy or, of several sets, mean.combined.accuracy."""
    combine: CombineConfig = CombineConfig()
    """How the combined score is made."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """What retrieval ranks by: the angle between embeddings, or the Euclidean distance of embeddings as they are.
    Verification compares unit embeddings, for which both give one order."""

    def interval(self, steps_per_epoch: int) -> Fraction:
        """Optimizer steps between evaluations, exact: half an epoch of 5 steps is 5/2."""
        if self.every_steps is not None:
            return Fraction(self.every_steps)
        return Fraction(str(self.every)) * steps_per_epoch
