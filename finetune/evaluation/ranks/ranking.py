"""How retrieval ranks a gallery: by which distance, expanded or not, re-ranked or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...embedding.unit_embeddings import refuse_non_finite, unit_rows
from ..cores import Progress, no_progress
from .query_expansion import expanded_embeddings
from .reranking import RerankedDistances

__all__ = ["COSINE", "Distance", "Ranking", "embeddings_to_rank", "ranking_distances"]

Floats = NDArray[np.float32]
Distance = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Ranking:
    """The rule of a ranking."""

    distance: Distance = "cosine"
    """cosine: of unit embeddings; euclidean: of embeddings as they are."""
    rerank: bool = False
    """Re-rank by k-reciprocal encoding."""
    k1: int = 20
    """Nearest neighbours among which re-ranking looks for reciprocal ones."""
    k2: int = 6
    """Nearest neighbours whose encodings re-ranking averages."""
    share: float = 0.3
    """lambda, the share of the original distance in that of re-ranking."""
    expand: int = 0
    """Nearest images, itself included, that each embedding is averaged with; 0 leaves embeddings as they are."""
    expand_power: float = 3.0
    """alpha, the power of the cosine that weighs each of them."""
    multi_query: bool = False
    """Average the query images of one identity and camera."""


COSINE = Ranking()
"""The usual rule."""


def embeddings_to_rank(embeddings: Floats, ranking: Ranking) -> Floats:
    """Embeddings float32 [N, D] as they are compared: of unit length, or as they are.

    Raises:
        GateError: some are not finite.
    """
    if ranking.distance == "cosine":
        return unit_rows(embeddings)
    refuse_non_finite(embeddings)
    return embeddings


def ranking_distances(
    query: Floats, gallery: Floats, ranking: Ranking, report: Progress = no_progress
) -> Callable[[slice], NDArray[np.floating]]:
    """A function from consecutive queries to values [n, G] that grow with the distance.

    Memory grows with the embeddings alone, not with Q times G.

    Args:
        query: Embeddings float32 [Q, D], rows of `embeddings_to_rank`.
        gallery: Embeddings float32 [G, D], likewise.
        ranking: cosine gives the negative cosine, euclidean the squared distance less the square of the query, which
            is one number for a row, in float64; re-ranking gives its own distances.
        report: Called with what is done of re-ranking and expansion.
    """
    if ranking.expand:
        query, gallery = expanded_embeddings(query, gallery, ranking.expand, ranking.expand_power, report)
        query, gallery = embeddings_to_rank(query, ranking), embeddings_to_rank(gallery, ranking)
    if ranking.rerank:
        if ranking.distance == "euclidean":  # re-ranking divides by the largest distance; squares must not overflow
            largest = max(float(np.abs(query).max()), float(np.abs(gallery).max())) or 1.0
            query, gallery = query / largest, gallery / largest
        reranked = RerankedDistances(query, gallery, k1=ranking.k1, k2=ranking.k2, weight=ranking.share, report=report)
        return reranked.of
    if ranking.distance == "cosine":
        negative = -query
        return lambda rows: negative[rows] @ gallery.T
    doubled, exact = -2 * query.astype(np.float64), gallery.astype(np.float64)
    squares = np.square(exact).sum(axis=1)
    return lambda rows: squares + doubled[rows] @ exact.T
