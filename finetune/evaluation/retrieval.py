"""Retrieval metrics: CMC, mean average precision and mINP, with the same-camera rule of person re-identification.

For each query the gallery images of the same identity *and* the same camera are dropped; a query without a match left
is skipped. Average precision is the mean of the precisions at the hits, as in Zheng et al., "Scalable Person
Re-identification: A Benchmark", ICCV 2015, without the trapezoid of its evaluation code. mINP is the mean over queries
of (number of hits) / (rank of the last hit): Ye et al., "Deep Learning for Person Re-identification: A Survey and
Outlook" (AGW), arXiv:2001.04193. `ranking` says by what distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .ranking import COSINE, Distance, Ranking, embeddings_to_rank, ranking_distances

__all__ = ["RETRIEVAL_METRICS", "RetrievalResult", "has_match", "measure_retrieval"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

RETRIEVAL_METRICS = ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP")
"""Fields of a result that are better when larger, the usual one first."""

_CHUNK = 256


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

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "retrieval"


def measure_retrieval(
    query: Floats,
    gallery: Floats,
    query_ids: Indices,
    gallery_ids: Indices,
    query_cameras: Indices,
    gallery_cameras: Indices,
    *,
    ranking: Ranking = COSINE,
) -> RetrievalResult:
    """Rank the gallery for each query, and measure the ranks.

    Args:
        query: Embeddings float32 [Q, D] of any length; they are normalised here where the cosine ranks.
        gallery: Embeddings float32 [G, D].
        query_ids: Identities int64 [Q].
        gallery_ids: Identities int64 [G].
        query_cameras: Cameras int64 [Q]; a camera below 0 is unknown and drops nothing.
        gallery_cameras: Cameras int64 [G].
        ranking: The distance, and whether to re-rank.

    Raises:
        DataError: no query has a match.
        GateError: embeddings are not finite.
    """
    query, gallery = embeddings_to_rank(query, ranking), embeddings_to_rank(gallery, ranking)
    reranked = ranking_distances(query, gallery, ranking) if ranking.rerank else None
    first_hits, precisions, inverse_negatives = [], [], []
    for start in range(0, len(query), _CHUNK):
        rows = slice(start, start + _CHUNK)
        distances = ranking_distances(query[rows], gallery, ranking) if reranked is None else reranked[rows]
        order = np.argsort(distances, axis=1, kind="stable")
        same_id = gallery_ids[order] == query_ids[rows, None]
        same_camera = (gallery_cameras[order] == query_cameras[rows, None]) & (query_cameras[rows, None] >= 0)
        for matches, junk in zip(same_id, same_id & same_camera, strict=True):
            hits = np.flatnonzero(matches[~junk])
            if hits.size:
                first_hits.append(hits[0])
                precisions.append(np.mean(np.arange(1, hits.size + 1) / (hits + 1)))
                inverse_negatives.append(hits.size / (hits[-1] + 1))
    if not first_hits:
        raise DataError("retrieval: no query has an image of the same identity from another camera in the gallery")
    ranks = np.array(first_hits)
    return RetrievalResult(
        mAP=float(np.mean(precisions)),
        rank1=float((ranks < 1).mean()),
        rank5=float((ranks < 5).mean()),
        rank10=float((ranks < 10).mean()),
        rank20=float((ranks < 20).mean()),
        mINP=float(np.mean(inverse_negatives)),
        queries=len(first_hits),
        gallery=len(gallery),
        skipped=len(query) - len(first_hits),
        reranked=ranking.rerank,
        distance=ranking.distance,
    )


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
