"""Clusters of tracks by density: DBSCAN on k-reciprocal Jaccard distances, and HDBSCAN.

Ester et al. 1996; the distances are those of re-ranking (Zhong et al. 2017, arXiv:1701.08398), with which
Cluster Contrast (Dai et al. 2021, arXiv:2103.11568) makes its pseudo-labels. Tracks that nothing joins are outliers.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ....errors import PlatformError
from ....finetune.evaluation.ranks.reranking import jaccard_distances

__all__ = ["OUTLIER", "dbscan", "hdbscan", "jaccard_distances"]

OUTLIER = -1

Integers = NDArray[np.int64]


def dbscan(distances: NDArray[np.floating], *, eps: float, least: int) -> Integers:
    """Labels int64 [N] from distances [N, N], -1 for outliers.

    A core has `least` items within `eps`, itself included. Clusters are numbered by their lowest core; an item in reach
    of several belongs to the first.
    """
    near = distances <= eps
    core = near.sum(axis=1) >= least
    labels = np.full(len(distances), OUTLIER, dtype=np.int64)
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
            reached = np.flatnonzero(near[item] & (labels == OUTLIER))
            labels[reached] = number
            waiting.extend(reached.tolist())
        number += 1
    return labels


def hdbscan(distances: NDArray[np.floating]) -> Integers:
    """Labels int64 [N] of scikit-learn's HDBSCAN on distances [N, N], clusters of two or more; -1 for outliers.

    Raises:
        PlatformError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError as error:
        raise PlatformError(
            "--cluster hdbscan needs scikit-learn 1.3 or newer: pip install 'rtool[hdbscan]'; or take dbscan"
        ) from error
    model = HDBSCAN(min_cluster_size=2, metric="precomputed", copy=True)
    labels: Integers = model.fit_predict(distances.astype(np.float64)).astype(np.int64)
    return labels
