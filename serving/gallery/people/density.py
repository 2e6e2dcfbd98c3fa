"""Clusters of tracks by density: DBSCAN on k-reciprocal Jaccard distances, and HDBSCAN.

Ester et al. 1996; the distances are those of re-ranking (Zhong et al. 2017, arXiv:1701.08398), with which
Cluster Contrast (Dai et al. 2021, arXiv:2103.11568) makes its pseudo-labels. Tracks that nothing joins are outliers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ....errors import PlatformError
from ....finetune.evaluation.ranks.reranking import RerankedDistances

__all__ = ["OUTLIER", "dbscan", "hdbscan", "within_jaccard"]

OUTLIER = -1

Integers = NDArray[np.int64]


def within_jaccard(vectors: NDArray[np.float32], *, k1: int, k2: int, eps: float) -> Callable[[int], Integers]:
    """Which items are within a Jaccard distance of one of N items [N, D], itself among them, ascending.

    The distances of one item are made when it is asked for: all of them would be a matrix [N, N].
    """
    distances = RerankedDistances(vectors[:0], vectors, k1=k1, k2=k2, weight=0.0)
    return lambda item: np.flatnonzero(distances.jaccard_of(item) <= eps)


def dbscan(near: Callable[[int], Integers], count: int, *, least: int) -> Integers:
    """Labels int64 [N] of `count` items by the items that are near each, itself among them; -1 for outliers.

    A core has `least` items near it. Clusters are numbered by their lowest core; an item in reach of several belongs
    to the first.
    """
    core = np.array([len(near(item)) >= least for item in range(count)], dtype=np.bool_)
    labels = np.full(count, OUTLIER, dtype=np.int64)
    number = 0
    for start in np.flatnonzero(core):
        if labels[start] != OUTLIER:
            continue
        labels[start] = number
        waiting = deque([int(start)])
        while waiting:
            item = waiting.popleft()
            if not core[item]:
                continue
            reached = near(item)
            reached = reached[labels[reached] == OUTLIER]
            labels[reached] = number
            waiting.extend(reached.tolist())
        number += 1
    return labels


def hdbscan(distances: NDArray[np.float64]) -> Integers:
    """Labels int64 [N] of scikit-learn's HDBSCAN, clusters of two or more; -1 for outliers.

    Args:
        distances: float64 [N, N]; they are overwritten.

    Raises:
        PlatformError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError as error:
        raise PlatformError(
            "--cluster hdbscan needs scikit-learn 1.3 or newer: pip install 'rtool[hdbscan]'; or take dbscan"
        ) from error
    model = HDBSCAN(min_cluster_size=2, metric="precomputed", copy=False)
    labels: Integers = model.fit_predict(distances).astype(np.int64)
    return labels
