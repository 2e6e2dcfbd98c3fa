"""Tracks to people: one labelling by the method asked for, and the tree of average linkage for every threshold.

A group of another method that holds two tracks which cannot be one person is divided by average linkage until it holds
none. The tree serves the page, whose slider cuts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .agglomerative import Tree, average_linkage, cut
from .density import OUTLIER, dbscan, hdbscan, jaccard_distances

__all__ = ["Clusters", "Method", "cluster_tracks"]

Method = Literal["agglomerative", "components", "dbscan", "hdbscan", "none"]
Integers = NDArray[np.int64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Clusters:
    """Of T tracks: the group of each, and the tree."""

    groups: Integers
    """int64 [T], the lowest track of the group."""
    outliers: Integers
    """Tracks that a density method left alone, ascending."""
    tree: Tree


def cluster_tracks(
    vectors: Matrix, similarity: Matrix, apart: Integers, method: Method, threshold: float, *, eps: float, partners: int
) -> Clusters:
    """Cluster T tracks.

    Args:
        vectors: Unit vectors, float32 [T, D].
        similarity: Their cosines, [T, T].
        apart: Pairs that cannot be one person, int64 [P, 2].
        method: How.
        threshold: The cosine at which agglomerative and components stop.
        eps: Jaccard distance of DBSCAN.
        partners: Tracks expected of one person: k1 is twice as many, at most 20, and k2 a third of k1.

    Raises:
        PlatformError: HDBSCAN without scikit-learn.
    """
    tree = average_linkage(similarity, apart)
    none = np.zeros(0, dtype=np.int64)
    if method == "none":
        return Clusters(np.arange(len(vectors)), none, tree)
    if method == "agglomerative":
        return Clusters(cut(tree, threshold), none, tree)
    if method == "components":
        return Clusters(_components(similarity, apart, threshold), none, tree)
    if method == "dbscan":
        k1 = min(20, 2 * partners)
        distances = jaccard_distances(vectors, k1=k1, k2=max(1, round(k1 / 3)))
        labels = dbscan(distances, eps=eps, least=2)
    else:
        labels = hdbscan(np.maximum(0, 1 - similarity))
    outliers = np.flatnonzero(labels == OUTLIER)
    return Clusters(_divided(_lowest(labels), similarity, apart), outliers, tree)


def _components(similarity: Matrix, apart: Integers, threshold: float) -> Integers:
    """Groups joined by pairs at or above the threshold, most similar first, unless that joins what is apart."""
    count = len(similarity)
    first, second = np.nonzero(np.triu(similarity >= threshold, 1))
    order = np.argsort(-similarity[first, second], kind="stable")
    groups = np.arange(count)
    banned: list[set[int]] = [set() for _ in range(count)]
    for one, other in apart.tolist():
        banned[one].add(other)
        banned[other].add(one)
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        low, high = sorted((int(groups[one]), int(groups[other])))
        if low == high or high in banned[low]:
            continue
        groups[groups == high] = low
        banned[low] |= banned[high]
        for group in banned[high]:
            banned[group].discard(high)
            banned[group].add(low)
    return groups


def _lowest(labels: Integers) -> Integers:
    """The lowest track of each label; every outlier is a group of its own."""
    groups = np.arange(len(labels))
    for label in np.unique(labels[labels != OUTLIER]):
        own = labels == label
        groups[own] = np.flatnonzero(own)[0]
    return groups


def _divided(groups: Integers, similarity: Matrix, apart: Integers) -> Integers:
    """Groups that hold a pair that is apart, divided by average linkage."""
    result = groups.copy()
    broken = groups[apart[:, 0]] == groups[apart[:, 1]]
    for group in np.unique(groups[apart[broken, 0]]):
        own = np.flatnonzero(groups == group)
        place = {int(track): number for number, track in enumerate(own)}
        inside = [(place[one], place[other]) for one, other in apart[broken].tolist() if groups[one] == group]
        tree = average_linkage(similarity[np.ix_(own, own)], np.array(inside, dtype=np.int64).reshape(-1, 2))
        result[own] = own[cut(tree, -np.inf)]
    return result
