"""The metrics of retrieval in the forms in which they are usually computed: slow, and independent of ours.

`sorted_with_lists` has the form of torchreid (Zhou, Xiang, "Torchreid", arXiv:1910.10093): the whole matrix of
distances is sorted, and the precisions of a query are a list over its gallery. `sorted_with_arrays` is the same loop
with array operations alone. `classic_reranking` is k-reciprocal re-ranking as its authors published it
(arXiv:1701.08398): square matrices for distances, neighbours and encodings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .simulated_people import RetrievalSet

__all__ = ["classic_reranking", "sorted_with_arrays", "sorted_with_lists"]

Floats = NDArray[np.float32]
Values = dict[str, float]


def sorted_with_lists(data: RetrievalSet, distances: Floats) -> Values:
    """mAP, rank-1 and mINP from distances [Q, G], sorted at once, precisions by a list for each query."""
    indices = np.argsort(distances, axis=1)
    matches = (data.gallery_ids[indices] == data.query_ids[:, np.newaxis]).astype(np.int32)
    all_ap, all_inp, all_first = [], [], []
    for query in range(len(distances)):
        order = indices[query]
        remove = (data.gallery_ids[order] == data.query_ids[query]) & (
            data.gallery_cameras[order] == data.query_cameras[query]
        )
        raw = matches[query][np.invert(remove)]
        if not np.any(raw):
            continue
        relevant = raw.sum()
        cumulated = raw.cumsum()
        all_first.append(int(raw.argmax()))
        all_inp.append(relevant / (np.flatnonzero(raw)[-1] + 1.0))
        precisions = [value / (place + 1.0) for place, value in enumerate(cumulated)]
        all_ap.append((np.asarray(precisions) * raw).sum() / relevant)
    return _means(all_ap, all_first, all_inp)


def sorted_with_arrays(data: RetrievalSet, chunk: int = 256) -> Values:
    """The same from embeddings, some queries at a time, with array operations alone."""
    all_ap, all_inp, all_first = [], [], []
    for start in range(0, len(data.query), chunk):
        rows = slice(start, start + chunk)
        order = np.argsort(-(data.query[rows] @ data.gallery.T), axis=1)
        same = data.gallery_ids[order] == data.query_ids[rows, None]
        junk = same & (data.gallery_cameras[order] == data.query_cameras[rows, None])
        for matches, dropped in zip(same, junk, strict=True):
            hits = np.flatnonzero(matches[~dropped])
            if hits.size:
                all_first.append(int(hits[0]))
                all_inp.append(hits.size / (hits[-1] + 1))
                all_ap.append(float(np.mean(np.arange(1, hits.size + 1) / (hits + 1))))
    return _means(all_ap, all_first, all_inp)


def _means(precisions: list[float], first: list[int], inverse: list[float]) -> Values:
    rank1 = np.mean(np.array(first) < 1)
    return {"mAP": float(np.mean(precisions)), "rank1": float(rank1), "mINP": float(np.mean(inverse))}


def classic_reranking(query: Floats, gallery: Floats, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Floats:
    """Re-ranked distances [Q, G] by the published loops over square matrices [Q + G, Q + G]."""
    rows = np.concatenate([query, gallery])
    total, queries = len(rows), len(query)
    squares = (rows**2).sum(axis=1)
    original: NDArray[Any] = squares[:, None] + squares[None, :] - 2 * (rows @ rows.T)
    original = np.transpose(original / np.max(original, axis=0))
    encoded = np.zeros_like(original)
    initial = np.argsort(original).astype(np.int32)
    for image in range(total):
        reciprocal = _reciprocal(initial, image, k1)
        expanded = reciprocal
        for candidate in reciprocal:
            theirs = _reciprocal(initial, candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, reciprocal)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        closeness = np.exp(-original[image, expanded])
        encoded[image, expanded] = closeness / np.sum(closeness)
    original = original[:queries]
    if k2 != 1:
        averaged = np.zeros_like(encoded)
        for image in range(total):
            averaged[image] = np.mean(encoded[initial[image, :k2]], axis=0)
        encoded = averaged
    inverted = [np.where(encoded[:, image] != 0)[0] for image in range(total)]
    jaccard = np.zeros_like(original)
    for image in range(queries):
        smaller: NDArray[Any] = np.zeros((1, total), dtype=np.float32)
        nonzero = np.where(encoded[image] != 0)[0]
        for column in nonzero:
            images = inverted[column]
            smaller[0, images] += np.minimum(encoded[image, column], encoded[images, column])
        jaccard[image] = 1 - smaller / (2.0 - smaller)
    final: NDArray[Any] = (jaccard * (1 - weight) + original * weight)[:queries, queries:]
    return final


def _reciprocal(initial: NDArray[np.int32], image: int, count: int) -> NDArray[np.int32]:
    forward = initial[image, : count + 1]
    backward = initial[forward, : count + 1]
    found: NDArray[np.int32] = forward[np.where(backward == image)[0]]
    return found
