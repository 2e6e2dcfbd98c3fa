"""Tracks to people: one labelling by the method asked for, and the tree of average linkage for every threshold.

A group of another method that holds two tracks which cannot be one person is divided by average linkage until it holds
none. The tree serves the page, whose slider cuts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from .agglomerative import Tree, average_linkage, cut
from .components import components
from .density import OUTLIER, dbscan, hdbscan, within_jaccard
from .similarity import MOST_WHOLE, similarity_rows

__all__ = ["Clusters", "Method", "check_size", "cluster_tracks"]

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
    vectors: Matrix, compared: Matrix, apart: Integers, method: Method, threshold: float, *, eps: float, partners: int
) -> Clusters:
    """Cluster T tracks.

    Args:
        vectors: Unit vectors, float32 [T, D].
        compared: Vectors whose dot products are the tracks' similarities, float32 [T, D].
        apart: Pairs that cannot be one person, int64 [P, 2].
        method: How.
        threshold: The cosine at which agglomerative and components stop.
        eps: Jaccard distance of DBSCAN.
        partners: Tracks expected of one person: k1 is twice as many, at most 20, and k2 a third of k1.

    Raises:
        InputError: HDBSCAN of too many tracks.
        PlatformError: HDBSCAN without scikit-learn.
    """
    check_size(method, len(vectors))
    tree = average_linkage(compared, apart)
    none = np.zeros(0, dtype=np.int64)
    if method == "none":
        return Clusters(np.arange(len(vectors)), none, tree)
    if method == "agglomerative":
        return Clusters(cut(tree, threshold), none, tree)
    if method == "components":
        return Clusters(components(compared, apart, threshold), none, tree)
    if method == "dbscan":
        k1 = min(20, 2 * partners)
        near = within_jaccard(vectors, k1=k1, k2=max(1, round(k1 / 3)), eps=eps)
        labels = dbscan(near, len(vectors), least=2)
    else:
        labels = hdbscan(_distances(compared))
    outliers = np.flatnonzero(labels == OUTLIER)
    return Clusters(_divided(_lowest(labels), compared, apart), outliers, tree)


def check_size(method: Method, tracks: int) -> None:
    """Refuse a method that needs the distances of all pairs, of more tracks than a matrix is made of.

    Raises:
        InputError: with the ways out.
    """
    if method == "hdbscan" and tracks > MOST_WHOLE:
        raise InputError(
            f"--cluster hdbscan: needs the distances of all pairs, {8 * tracks**2 / 1e9:.1f} GB for {tracks} tracks, "
            f"and takes {MOST_WHOLE} at most; take dbscan, which finds outliers too, or agglomerative"
        )


def _distances(compared: Matrix) -> NDArray[np.float64]:
    """1 - similarity of all tracks, none below 0: float64 [T, T]."""
    distances = np.empty((len(compared), len(compared)))
    for rows, block in similarity_rows(compared):
        np.maximum(0, 1 - block, out=distances[rows])
    return distances


def _lowest(labels: Integers) -> Integers:
    """The lowest track of each label; every outlier is a group of its own."""
    groups = np.arange(len(labels))
    for label in np.unique(labels[labels != OUTLIER]):
        own = labels == label
        groups[own] = np.flatnonzero(own)[0]
    return groups


def _divided(groups: Integers, compared: Matrix, apart: Integers) -> Integers:
    """Groups that hold a pair that is apart, divided by average linkage."""
    result = groups.copy()
    broken = groups[apart[:, 0]] == groups[apart[:, 1]]
    for group in np.unique(groups[apart[broken, 0]]):
        own = np.flatnonzero(groups == group)
        place = {int(track): number for number, track in enumerate(own)}
        inside = [(place[one], place[other]) for one, other in apart[broken].tolist() if groups[one] == group]
        tree = average_linkage(compared[own], np.array(inside, dtype=np.int64).reshape(-1, 2))
        result[own] = own[cut(tree, -np.inf)]
    return result
