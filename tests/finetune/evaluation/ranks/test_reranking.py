"""k-reciprocal re-ranking against the paper's sets and sums written out one image at a time."""

import math
import tracemalloc

import numpy as np
import pytest

from rtool.benchmarks.evaluation.usual_forms import classic_reranking
from rtool.finetune.evaluation.ranks.reranking import RerankedDistances, reranked_distances


def by_the_paper(query, gallery, k1, k2, share):
    """Zhong et al. 2017, sections 3.2 to 3.4, with sets and dictionaries."""
    images = [*query, *gallery]
    count = len(images)
    squared = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in images] for x in images]
    distance = [[value / max(row) for value in row] for row in squared]
    ranked = [sorted(range(count), key=lambda other, p=p: distance[p][other]) for p in range(count)]

    def nearest(p, k):
        return ranked[p][: k + 1]  # the image itself is the first

    def reciprocal(p, k):
        return {g for g in nearest(p, k) if p in nearest(g, k)}

    def expanded(p):
        result = set(reciprocal(p, k1))
        for q in reciprocal(p, k1):
            half = reciprocal(q, round(k1 / 2))
            if len(half & reciprocal(p, k1)) > 2 / 3 * len(half):
                result |= half
        return result

    encoded = []
    for p in range(count):
        weights = {g: math.exp(-distance[p][g]) for g in expanded(p)}
        total = sum(weights.values())
        encoded.append([weights.get(g, 0.0) / total for g in range(count)])
    averaged = [[sum(encoded[n][g] for n in ranked[p][:k2]) / k2 for g in range(count)] for p in range(count)]
    final = np.zeros((len(query), len(gallery)))
    for p in range(len(query)):
        for g in range(len(gallery)):
            one, other = averaged[p], averaged[len(query) + g]
            smaller = sum(min(a, b) for a, b in zip(one, other, strict=True))
            larger = sum(max(a, b) for a, b in zip(one, other, strict=True))
            final[p, g] = (1 - share) * (1 - smaller / larger) + share * distance[p][len(query) + g]
    return final


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.3), (7, 1, 0.5), (5, 3, 0.0), (60, 40, 0.3)])
def test_agrees_with_the_paper_written_out(k1, k2, share):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 8))
    rows = centres[np.arange(40) % 6] + 0.7 * rng.normal(size=(40, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    query, gallery = rows[:9], rows[9:]
    expected = by_the_paper(query.astype("f8"), gallery.astype("f8"), k1, min(k2, 40), share)
    # float32 distances against float64 ones
    got = reranked_distances(query, gallery, k1=k1, k2=k2, weight=share)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_memory_grows_with_the_images_and_not_with_their_square():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 16)) + 3 * np.eye(16)[np.arange(3000) % 16]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    tracemalloc.start()
    ranked = RerankedDistances(rows[:600], rows[600:])
    ranked.of(slice(0, 100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 4 * 3000**2 / 2  # three square matrices are what the usual form holds


def test_equal_images_and_few_images_are_re_ranked():
    rows = np.repeat(np.eye(4, dtype="f4"), 3, axis=0)
    got = reranked_distances(rows[:2], rows[2:], k1=3, k2=2)
    expected = by_the_paper(rows[:2].astype("f8"), rows[2:].astype("f8"), 3, 2, 0.3)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.isfinite(reranked_distances(rows[:1], rows[1:2])).all()


def test_the_usual_form_and_ours_rank_alike():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(30, 32))
    rows = centres[np.arange(400) % 30] + 1.2 * rng.normal(size=(400, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    usual, ours = classic_reranking(rows[:80], rows[80:]), reranked_distances(rows[:80], rows[80:])
    np.testing.assert_array_equal(np.argsort(usual, axis=1), np.argsort(ours, axis=1))
