"""Retrieval metrics: CMC, mean average precision and mINP, with the same-camera rule of person re-identification.

For each query the gallery images of the same identity *and* the same camera are dropped; a query without a match left
is skipped. Average precision is the mean of the precisions at the hits (not the trapezoid of older code).
mINP is the mean of hits / rank of the last hit (Ye et al., "Deep learning for person re-identification", 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["RetrievalResult", "measure_retrieval"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_CHUNK = 256


@dataclass(frozen=True)
class RetrievalResult:
    """Shares in 0..1 over `queries` queries; `skipped` had no match in the gallery."""

    mAP: float  # noqa: N815 - the field's name for it
    rank1: float
    rank5: float
    rank10: float
    mINP: float  # noqa: N815
    queries: int
    gallery: int
    skipped: int

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
) -> RetrievalResult:
    """Rank the gallery [G, D] for each query [Q, D] by cosine similarity.

    A camera below 0 is unknown and drops nothing.

    Raises:
        DataError: no query has a match.
    """
    query, gallery = _unit(query), _unit(gallery)
    first_hits, precisions, inverse_negatives = [], [], []
    for start in range(0, len(query), _CHUNK):
        rows = slice(start, start + _CHUNK)
        order = np.argsort(-(query[rows] @ gallery.T), axis=1, kind="stable")
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
        mINP=float(np.mean(inverse_negatives)),
        queries=len(first_hits),
        gallery=len(gallery),
        skipped=len(query) - len(first_hits),
    )


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
