"""Retrieval metrics: CMC, mean average precision and mINP, with the same-camera rule of person re-identification.

For each query the gallery images of the same identity *and* the same camera are dropped; a query without a match left
is skipped. Average precision is the mean of the precisions at the hits, as in Zheng et al., "Scalable Person
Re-identification: A Benchmark", ICCV 2015, without the trapezoid of its evaluation code. mINP is the mean over queries
of (number of hits) / (rank of the last hit): Ye et al., "Deep Learning for Person Re-identification: A Survey and
Outlook" (AGW), arXiv:2001.04193. `ranking` says by what distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..cores import Progress, no_progress
from ..identity_bootstrap import interval, resampled_means
from .hit_ranks import HitRanks, Matches, find_hit_ranks
from .multi_query import averaged_queries
from .ranking import COSINE, Distance, Ranking, embeddings_to_rank, ranking_distances

__all__ = [
    "RETRIEVAL_METRICS",
    "RankedRetrieval",
    "RetrievalResult",
    "has_match",
    "measure_retrieval",
    "rank_retrieval",
]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

RETRIEVAL_METRICS = ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP")
"""Fields of a result that are better when larger, the usual one first."""


@dataclass(frozen=True)
class RetrievalResult:
    """Shares in 0..1 over `queries` queries; `skipped` had no match in the gallery."""

    mAP: float  # noqa: N815 - the field's name for it
    rank1: float
    rank5: float
    rank10: float
    rank20: float
    mINP: float  # noqa: N815
    queries: int
    gallery: int
    skipped: int
    reranked: bool = False
    distance: Distance = "cosine"
    expanded: int = 0
    """Nearest images that each embedding was averaged with by query expansion."""
    multi_query: bool = False
    low: dict[str, float] = field(default_factory=dict)
    """Lower end of the 95 % bootstrap interval over the queries' identities of each metric, by its field."""
    high: dict[str, float] = field(default_factory=dict)
    """Upper ends likewise."""

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "retrieval"


@dataclass(frozen=True)
class RankedRetrieval:
    """The ranks of all queries, and whose they are."""

    ranks: HitRanks
    identities: Indices
    """Of the queries, int64 [Q]."""
    cameras: Indices
    """Likewise."""
    gallery: int
    ranking: Ranking
    distances: Callable[[slice], NDArray[np.floating]]
    """From consecutive queries to the values that rank the gallery, [n, G]."""
    matches: Matches

    def result(self) -> RetrievalResult:
        """Means over the queries that have a match.

        Raises:
            DataError: no query has one.
        """
        ranks = self.ranks
        measured = ranks.measured
        if not measured.any():
            raise DataError("retrieval: no query has an image of the same identity from another camera in the gallery")
        values = self.per_query()
        asked = self.identities[measured]
        low, high = interval(resampled_means(values, asked), len(np.unique(asked)))
        return RetrievalResult(
            **_by_metric(values.mean(axis=0)),
            queries=int(measured.sum()),
            gallery=self.gallery,
            skipped=int((~measured).sum()),
            reranked=self.ranking.rerank,
            distance=self.ranking.distance,
            expanded=self.ranking.expand,
            multi_query=self.ranking.multi_query,
            low=_by_metric(low),
            high=_by_metric(high),
        )

    def per_query(self) -> NDArray[np.float64]:
        """What each query that has a match adds to the mean of each of `RETRIEVAL_METRICS`, float64 [n, 6]."""
        ranks, measured = self.ranks, self.ranks.measured
        first = ranks.first[measured]
        hit = [first < depth for depth in (1, 5, 10, 20)]
        columns = [ranks.average_precision[measured], *hit, ranks.inverse_negative[measured]]
        return np.stack(columns, axis=1).astype(np.float64)


def _by_metric(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(RETRIEVAL_METRICS, values.tolist(), strict=True))


def measure_retrieval(
    query: Floats,
    gallery: Floats,
    query_ids: Indices,
    gallery_ids: Indices,
    query_cameras: Indices,
    gallery_cameras: Indices,
    *,
    ranking: Ranking = COSINE,
    report: Progress = no_progress,
) -> RetrievalResult:
    """Rank the gallery for each query, and measure the ranks; arguments as of `rank_retrieval`.

    Raises:
        DataError: no query has a match, or the embeddings of query and gallery differ in size.
        GateError: embeddings are not finite.
    """
    return rank_retrieval(
        query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, ranking=ranking, report=report
    ).result()


def rank_retrieval(
    query: Floats,
    gallery: Floats,
    query_ids: Indices,
    gallery_ids: Indices,
    query_cameras: Indices,
    gallery_cameras: Indices,
    *,
    ranking: Ranking = COSINE,
    report: Progress = no_progress,
) -> RankedRetrieval:
    """Count the ranks of each query's matches, on all cores; memory does not grow with Q times G.

    Args:
        query: Embeddings float32 [Q, D] of any length; they are normalised here where the cosine ranks.
        gallery: Embeddings float32 [G, D].
        query_ids: Identities int64 [Q].
        gallery_ids: Identities int64 [G].
        query_cameras: Cameras int64 [Q]; a camera below 0 is unknown and drops nothing.
        gallery_cameras: Cameras int64 [G].
        ranking: The distance, and whether to average queries, expand and re-rank.
        report: Called with what is done.

    Raises:
        DataError: the embeddings of query and gallery differ in size.
        GateError: embeddings are not finite.
    """
    if query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"retrieval: embeddings of {query.shape[1]} numbers for the queries and of {gallery.shape[1]} for the "
            "gallery; embed both with one model"
        )
    query, gallery = embeddings_to_rank(query, ranking), embeddings_to_rank(gallery, ranking)
    if ranking.multi_query:
        query, query_ids, query_cameras = averaged_queries(
            query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras
        )
        query = embeddings_to_rank(query, ranking)
    distances = ranking_distances(query, gallery, ranking, report)
    matches = Matches(query_ids, gallery_ids, query_cameras, gallery_cameras)
    ranks = find_hit_ranks(distances, len(query), len(gallery), matches, report)
    return RankedRetrieval(ranks, query_ids, query_cameras, len(gallery), ranking, distances, matches)


def has_match(query_ids: Indices, gallery_ids: Indices, query_cameras: Indices, gallery_cameras: Indices) -> bool:
    """Whether any query has an image of the same identity from another (or an unknown) camera in the gallery."""
    same_id = np.isin(query_ids, gallery_ids)
    if (query_cameras[same_id] < 0).any():
        return True
    cameras_of: dict[int, set[int]] = {}
    for identity, camera in zip(gallery_ids.tolist(), gallery_cameras.tolist(), strict=True):
        cameras_of.setdefault(identity, set()).add(camera)
    pairs = zip(query_ids[same_id].tolist(), query_cameras[same_id].tolist(), strict=True)
    return any(cameras_of[identity] != {camera} for identity, camera in pairs)
