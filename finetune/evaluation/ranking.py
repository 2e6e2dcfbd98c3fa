"""How retrieval ranks a gallery: by which distance, and whether it is re-ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..embedding.unit_embeddings import refuse_non_finite, unit_rows
from .reranking import reranked_distances

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


def ranking_distances(query: Floats, gallery: Floats, ranking: Ranking) -> NDArray[np.floating]:
    """Values [Q, G] that grow with the distance; from the rows of `embeddings_to_rank`.

    Args:
        query: Embeddings float32 [Q, D].
        gallery: Embeddings float32 [G, D].
        ranking: cosine gives the negative cosine, euclidean the squared distance less the square of the query, which
            is one number for a row, in float64; re-ranking gives its own distances.
    """
    if ranking.rerank:
        if ranking.distance == "euclidean":  # re-ranking divides by the largest distance; squares must not overflow
            largest = max(float(np.abs(query).max()), float(np.abs(gallery).max())) or 1.0
            query, gallery = query / largest, gallery / largest
        return reranked_distances(query, gallery, k1=ranking.k1, k2=ranking.k2, weight=ranking.share)
    if ranking.distance == "cosine":
        negative: Floats = -(query @ gallery.T)
        return negative
    exact = gallery.astype(np.float64)
    distances: NDArray[np.float64] = np.square(exact).sum(axis=1) - 2 * (query.astype(np.float64) @ exact.T)
    return distances
