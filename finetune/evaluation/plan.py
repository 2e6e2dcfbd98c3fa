"""How a data set will be measured, decided from its labels alone, so that a misfit is refused before training.

The protocol follows from the labels unless it is named; metrics are the fields of its result that are better when
larger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, nearest
from ..data.dataset import Dataset
from ..data.pair_drawing import draw_pairs
from ..data.splits import has_cameras, query_and_gallery
from .classification import CLASSIFICATION_METRICS
from .pairs.folds import FOLDS
from .pairs.verification import measurable_metrics
from .ranks.ranking import COSINE, Ranking
from .ranks.retrieval import RETRIEVAL_METRICS, has_match

__all__ = ["EvaluationPlan", "Protocol", "choose_protocol", "plan_evaluation", "refuse_ranking"]

Protocol = Literal["retrieval", "verification", "classification", "function", "templates"]
"""function: an evaluation of one's own, see `own_function`; templates: IJB, see `templates`."""
Indices = NDArray[np.int64]


def _none() -> Indices:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class EvaluationPlan:
    """Which images of a data set are compared: query and gallery of retrieval, or the pairs of verification."""

    protocol: Protocol
    metrics: tuple[str, ...]
    """What is measured, the usual one first."""
    ranking: Ranking = COSINE
    query: Indices = field(default_factory=_none)
    """Image numbers int64 [Q]; `gallery` likewise [G]. Empty for verification."""
    gallery: Indices = field(default_factory=_none)
    pairs: Indices = field(default_factory=_none)
    """int64 [P, 3]: image, image, 1 for the same identity. Empty for retrieval."""

    def metric(self, name: str | None) -> str:
        """`name` if it is measured; for None the usual metric of the protocol.

        Raises:
            ConfigError: it is not measured; lists what is.
        """
        if self.protocol == "function":
            if name is None:
                raise ConfigError("evaluation.metric: name the value of evaluation.function that chooses checkpoints")
            return name
        if name is None:
            return self.metrics[0]
        if name not in self.metrics:
            raise ConfigError(
                f"evaluation.metric: {self.protocol} of these data has no '{name}'; {nearest(name, self.metrics)}"
            )
        return name


def choose_protocol(dataset: Dataset) -> Protocol:
    """Retrieval for images with cameras or fixed queries, verification for the rest."""
    if dataset.pairs is None and (dataset.is_query is not None or has_cameras(dataset)):
        return "retrieval"
    return "verification"


def plan_evaluation(dataset: Dataset, protocol: Protocol | None = None, ranking: Ranking = COSINE) -> EvaluationPlan:
    """Decide from the labels which images are compared; nothing is decoded.

    Args:
        dataset: The images and their labels.
        protocol: By default `choose_protocol`.
        ranking: How retrieval ranks.

    Raises:
        ConfigError: a ranking asked of a verification.
        DataError: the labels do not fit the protocol.
    """
    chosen = protocol or choose_protocol(dataset)
    if chosen == "retrieval":
        return _plan_retrieval(dataset, ranking)
    refuse_ranking(dataset, chosen, ranking)
    if chosen == "function":
        return EvaluationPlan("function", ())
    if chosen == "classification":
        return _plan_classification(dataset)
    return _plan_verification(dataset)


def refuse_ranking(dataset: Dataset, protocol: Protocol, ranking: Ranking) -> None:
    """Refuse choices about a gallery where none is ranked.

    Raises:
        ConfigError: `ranking` has some.
    """
    named = {
        "evaluation.distance": ranking.distance != COSINE.distance,
        "evaluation.rerank": ranking.rerank,
        "query expansion": ranking.expand > 0,
        "multi-query": ranking.multi_query,
    }
    asked = " and ".join(name for name, given in named.items() if given)
    if asked:
        raise ConfigError(f"{asked}: {dataset.name} is measured by {protocol}, which ranks no gallery; leave it out")


def _plan_retrieval(dataset: Dataset, ranking: Ranking) -> EvaluationPlan:
    if dataset.pairs is not None:
        raise DataError(
            f"{dataset.name}: lists pairs and knows no identities, so nothing can be retrieved from it; use the "
            "verification protocol"
        )
    query, gallery = query_and_gallery(dataset)
    identities, cameras = dataset.identities, dataset.cameras
    if not has_match(identities[query], identities[gallery], cameras[query], cameras[gallery]):
        raise DataError(
            f"{dataset.name}: no query has an image of the same identity from another camera in the gallery; retrieval "
            "needs identities seen by several cameras, or use the verification protocol"
        )
    return EvaluationPlan("retrieval", RETRIEVAL_METRICS, ranking, query, gallery)


def _plan_classification(dataset: Dataset) -> EvaluationPlan:
    if dataset.pairs is not None:
        raise DataError(f"{dataset.name}: lists pairs and knows no classes; use the verification protocol")
    return EvaluationPlan("classification", CLASSIFICATION_METRICS)


def _plan_verification(dataset: Dataset) -> EvaluationPlan:
    identities, listed = dataset.identities, dataset.pairs
    if listed is None:
        drawn = draw_pairs(identities)
        return EvaluationPlan("verification", measurable_metrics(identities, drawn, known_identities=True), pairs=drawn)
    same = int((listed[:, 2] == 1).sum())
    different = len(listed) - same
    if len(listed) < FOLDS or not same or not different:
        raise DataError(
            f"{dataset.name}: {same} pairs of one person and {different} of two; verification needs both, and at least "
            f"{FOLDS} pairs for {FOLDS} folds"
        )
    return EvaluationPlan("verification", measurable_metrics(identities, listed, known_identities=False), pairs=listed)
