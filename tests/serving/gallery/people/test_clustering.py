"""Clusters of tracks, against scikit-learn's linkages and DBSCAN and slow searches over whole matrices."""

import numpy as np
import pytest

from rtool.errors import InputError
from rtool.finetune.evaluation.ranks.reranking import RerankedDistances
from rtool.serving.gallery.people import clustering, components, nearest_groups, similarity
from rtool.serving.gallery.people.agglomerative import average_linkage, cut
from rtool.serving.gallery.people.clustering import cluster_tracks
from rtool.serving.gallery.people.density import dbscan, within_jaccard

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
    assert partition(cut(average_linkage(vectors, NONE), threshold)) == partition(expected)


@pytest.mark.parametrize("listed", [1, 4])
def test_merges_are_those_of_the_whole_matrix_when_lists_of_nearest_groups_run_out(listed: int, monkeypatch):
    monkeypatch.setattr(nearest_groups, "_LISTED", listed)
    monkeypatch.setattr(nearest_groups, "_BLOCK", 7)
    for seed in range(12):
        draw = np.random.default_rng(seed)
        vectors, _ = rows(int(draw.integers(2, 70)), int(draw.integers(1, 9)), seed)
        vectors *= draw.uniform(0.3, 1, (len(vectors), 1)).astype(np.float32) if seed % 2 else np.float32(1)
        apart = np.sort(draw.integers(0, len(vectors), (seed * 4, 2)), axis=1)
        apart = np.unique(apart[apart[:, 0] < apart[:, 1]], axis=0).reshape(-1, 2)
        vectors.flags.writeable = False  # what is clustered is compared again afterwards
        tree = average_linkage(vectors, apart)
        expected = matrix_merges(vectors.astype(np.float64), apart)
        assert list(zip(tree.first.tolist(), tree.second.tolist(), strict=True)) == [merge[:2] for merge in expected]
        assert np.allclose(tree.similarity, [value for *_, value in expected], atol=1e-9)


def matrix_merges(vectors: np.ndarray, apart: np.ndarray) -> list[tuple[int, int, float]]:
    """Average linkage by Lance and Williams' formula on the whole matrix, in float64."""
    s = vectors @ vectors.T
    np.fill_diagonal(s, -np.inf)
    s[apart[:, 0], apart[:, 1]] = s[apart[:, 1], apart[:, 0]] = -np.inf
    sizes, merges = np.ones(len(s)), []
    while s.max() > -np.inf:
        low, high = map(int, np.unravel_index(s.argmax(), s.shape))
        merges.append((low, high, float(s[low, high])))
        row = (sizes[low] * s[low] + sizes[high] * s[high]) / (sizes[low] + sizes[high])
        row[[low, high]] = -np.inf
        sizes[low] += sizes[high]
        s[low] = s[:, low] = row
        s[high] = s[:, high] = -np.inf
    return merges


def test_equal_tracks_are_joined_from_the_lowest_on():
    vectors = np.repeat(np.eye(3, 8, dtype=np.float32), [60, 70, 1], axis=0)
    tree = average_linkage(vectors, NONE)
    assert tree.first[:128].tolist() == [0] * 59 + [60] * 69
    assert np.allclose(tree.similarity, [1] * 128 + [0] * 2)
    assert (cut(tree, 0.5) == np.repeat([0, 60, 130], [60, 70, 1])).all()


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
    groups = cut(average_linkage(vectors, pairs), 0.3)
    assert (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert partition(groups) == slow_merges(cosines, apart, 0.3)


@pytest.mark.parametrize("method", ["components", "dbscan", "hdbscan", "agglomerative"])
def test_every_method_keeps_apart_what_is_apart_and_finds_clear_people(method: str):
    vectors, person = rows(40, 5, noise=0.05)
    found = cluster_tracks(vectors, vectors, NONE, method, 0.7, eps=0.5, partners=3)
    assert partition(found.groups) == partition(person)
    pairs = np.array([[0, 5], [0, 10], [5, 10]])
    parted = cluster_tracks(vectors, vectors, pairs, method, 0.7, eps=0.5, partners=3).groups
    assert len(set(parted[[0, 5, 10]].tolist())) == 3
    assert set(np.unique(parted[person != 0])) == set(np.unique(found.groups[person != 0]))


def test_components_join_every_pair_at_or_above_the_threshold():
    vectors = np.zeros((5, 5), dtype=np.float32)
    vectors[:3, :3] = [[0.6, 0.8, 0], [0, 1, 0], [0, 0.71, np.sqrt(1 - 0.71**2)]]  # cosines .8, .71 and .568
    vectors[3:, 3:] = [[1, 0], [0.69, np.sqrt(1 - 0.69**2)]]
    found = cluster_tracks(vectors, vectors, NONE, "components", 0.7, eps=0.4, partners=4)
    assert found.groups.tolist() == [0, 0, 0, 3, 4]
    alone = cluster_tracks(vectors, vectors, NONE, "none", 0.7, eps=0.4, partners=4)
    assert alone.groups.tolist() == [0, 1, 2, 3, 4]


def joined_one_by_one(cosines: np.ndarray, apart: set[tuple[int, int]], threshold: float) -> set[frozenset[int]]:
    """Pairs from the most similar on, each joined unless that joins two which are apart."""
    groups = {item: frozenset([item]) for item in range(len(cosines))}
    first, second = np.nonzero(np.triu(cosines >= threshold, 1))
    for place in np.argsort(-cosines[first, second], kind="stable"):
        both = groups[first[place]] | groups[second[place]]
        if not any((i, j) in apart for i in both for j in both):
            groups.update(dict.fromkeys(both, both))
    return set(groups.values())


@pytest.mark.parametrize(("at_once", "pairs"), [(1 << 16, 1 << 23), (5, 40)])
def test_components_in_bands_are_those_of_all_pairs_in_turn(at_once: int, pairs: int, monkeypatch):
    monkeypatch.setattr(components, "_AT_ONCE", at_once)
    monkeypatch.setattr(components, "_PAIRS", pairs)
    monkeypatch.setattr(components, "_BINS", 8)
    monkeypatch.setattr(components, "_ROWS", 3)
    monkeypatch.setattr(similarity, "_TILE", 16)
    for seed in range(6):
        draw = np.random.default_rng(seed)
        vectors, _ = rows(50, 5, seed)
        vectors[30:42] = vectors[30]  # pairs of one similarity, more than a band holds
        apart = {tuple(sorted(map(int, draw.choice(50, 2, replace=False)))) for _ in range(5 * seed)}
        found = components.components(vectors, np.array(sorted(apart), dtype=np.int64).reshape(-1, 2), 0.4)
        assert partition(found) == joined_one_by_one(similarity.similarity_of_all(vectors), apart, 0.4)
        assert all(label == np.flatnonzero(found == label)[0] for label in found)


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 0.7, 1.0])
def test_components_are_the_single_linkage_of_scikit_learn(threshold: float):
    vectors, _ = rows(60, 9, noise=0.4)
    from sklearn.cluster import AgglomerativeClustering  # not above: collecting the tests would load it

    distances = np.maximum(1 - (vectors @ vectors.T).astype(np.float64), 0)
    oracle = AgglomerativeClustering(None, metric="precomputed", linkage="single", distance_threshold=1 - threshold)
    expected = np.arange(60) if threshold == 1 else oracle.fit_predict(distances)
    assert partition(components.components(vectors, NONE, threshold)) == partition(expected)


def test_rows_of_the_matrix_are_symmetric_to_the_bit(monkeypatch):
    monkeypatch.setattr(similarity, "_TILE", 16)
    vectors, _ = rows(75, 9)
    whole = similarity.similarity_of_all(vectors)
    assert (whole == whole.T).all()
    assert (np.diag(whole) == 1).all()
    assert np.allclose(whole, vectors.astype(np.float64) @ vectors.T.astype(np.float64), atol=1e-6)


def test_hdbscan_is_refused_where_it_needs_too_large_a_matrix(monkeypatch):
    monkeypatch.setattr(clustering, "MOST_WHOLE", 39)
    vectors, _ = rows(40, 5)
    with pytest.raises(InputError, match=r"needs the distances of all pairs.* takes 39 at most; take dbscan"):
        cluster_tracks(vectors, vectors, NONE, "hdbscan", 0.7, eps=0.5, partners=3)


@pytest.mark.parametrize("eps", [0.2, 0.4, 0.6])
def test_dbscan_finds_the_cores_and_outliers_of_scikit_learn(eps: float):
    vectors, _ = rows(80, 12, noise=0.8)
    encoded = RerankedDistances(vectors[:0], vectors, k1=8, k2=3, weight=0.0)
    distances = np.stack([encoded.jaccard_of(item) for item in range(80)])
    assert np.abs(np.diag(distances)).max() < 1e-6
    from sklearn.cluster import DBSCAN

    expected = DBSCAN(eps=eps, min_samples=2, metric="precomputed").fit(distances.clip(0))
    own = dbscan(within_jaccard(vectors, k1=8, k2=3, eps=eps), 80, least=2)
    assert partition(own) == partition(expected.labels_)
    assert (own == -1).tolist() == (expected.labels_ == -1).tolist()
