"""Clusters of tracks, against scikit-learn's average linkage and DBSCAN and a slow search over all merges."""

import numpy as np
import pytest

from rtool.finetune.evaluation.ranks.reranking import jaccard_distances
from rtool.serving.gallery.people.agglomerative import average_linkage, cut
from rtool.serving.gallery.people.clustering import cluster_tracks
from rtool.serving.gallery.people.density import dbscan

NONE = np.zeros((0, 2), dtype=np.int64)


def rows(count: int, people: int, seed: int = 0, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [count, 16] around `people` centres, and the person of each."""
    draw = np.random.default_rng(seed)
    person = np.arange(count) % people
    vectors = draw.normal(size=(people, 16))[person] + noise * draw.normal(size=(count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), person


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6, 0.8])
def test_average_linkage_cuts_into_the_clusters_of_scikit_learn(threshold: float):
    vectors, _ = rows(60, 9)
    cosines = (vectors @ vectors.T).astype(np.float64)
    from sklearn.cluster import AgglomerativeClustering  # not above: collecting the tests would load it

    oracle = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=1 - threshold)
    expected = oracle.fit_predict(np.maximum(1 - cosines, 0))
    assert partition(cut(average_linkage(cosines, NONE), threshold)) == partition(expected)


def slow_merges(cosines: np.ndarray, apart: set[tuple[int, int]], threshold: float) -> set[frozenset[int]]:
    """Average linkage by looking at every pair of groups after every merge."""
    groups = [frozenset([item]) for item in range(len(cosines))]
    while len(groups) > 1:
        best, pair = threshold, None
        for a, one in enumerate(groups):
            for other in groups[a + 1 :]:
                if any((min(i, j), max(i, j)) in apart for i in one for j in other):
                    continue
                mean = np.mean([cosines[i, j] for i in one for j in other])
                if mean >= best and (pair is None or mean > best):
                    best, pair = mean, (one, other)
        if pair is None:
            break
        groups = [group for group in groups if group not in pair] + [pair[0] | pair[1]]
    return set(groups)


@pytest.mark.parametrize("seed", range(4))
def test_tracks_that_are_apart_never_meet_through_others(seed: int):
    vectors, _ = rows(24, 4, seed)
    cosines = (vectors @ vectors.T).astype(np.float64)
    draw = np.random.default_rng(seed)
    apart = {tuple(sorted(map(int, draw.choice(24, 2, replace=False)))) for _ in range(12)} | {(0, 4), (4, 8)}
    pairs = np.array(sorted(apart), dtype=np.int64)
    groups = cut(average_linkage(cosines, pairs), 0.3)
    assert (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert partition(groups) == slow_merges(cosines, apart, 0.3)


@pytest.mark.parametrize("method", ["components", "dbscan", "hdbscan", "agglomerative"])
def test_every_method_keeps_apart_what_is_apart_and_finds_clear_people(method: str):
    vectors, person = rows(40, 5, noise=0.05)
    cosines = vectors @ vectors.T
    found = cluster_tracks(vectors, cosines, NONE, method, 0.7, eps=0.5, partners=3)
    assert partition(found.groups) == partition(person)
    pairs = np.array([[0, 5], [0, 10], [5, 10]])
    parted = cluster_tracks(vectors, cosines, pairs, method, 0.7, eps=0.5, partners=3).groups
    assert len(set(parted[[0, 5, 10]].tolist())) == 3
    assert set(np.unique(parted[person != 0])) == set(np.unique(found.groups[person != 0]))


def test_components_join_every_pair_at_or_above_the_threshold():
    cosines = np.eye(5, dtype=np.float32)
    for a, b, value in ((0, 1, 0.8), (1, 2, 0.7), (3, 4, 0.69)):
        cosines[a, b] = cosines[b, a] = value
    found = cluster_tracks(np.eye(5, dtype=np.float32), cosines, NONE, "components", 0.7, eps=0.4, partners=4)
    assert found.groups.tolist() == [0, 0, 0, 3, 4]
    alone = cluster_tracks(np.eye(5, dtype=np.float32), cosines, NONE, "none", 0.7, eps=0.4, partners=4)
    assert alone.groups.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("eps", [0.2, 0.4, 0.6])
def test_dbscan_finds_the_cores_and_outliers_of_scikit_learn(eps: float):
    vectors, _ = rows(80, 12, noise=0.8)
    distances = jaccard_distances(vectors, k1=8, k2=3)
    assert np.abs(np.diag(distances)).max() < 1e-6
    from sklearn.cluster import DBSCAN

    expected = DBSCAN(eps=eps, min_samples=2, metric="precomputed").fit(distances.clip(0))
    own = dbscan(distances, eps=eps, least=2)
    assert partition(own) == partition(expected.labels_)
    assert (own == -1).tolist() == (expected.labels_ == -1).tolist()
