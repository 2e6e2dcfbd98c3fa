"""k-reciprocal re-ranking against the paper's sets and sums written out one image at a time."""

import math
import tracemalloc

import numpy as np
import pytest

from rtool.finetune.evaluation.ranks.reranking import reranked_distances


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


def test_three_matrices_are_held_at_the_peak():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1500, 16)) + 3 * np.eye(16)[np.arange(1500) % 16]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    tracemalloc.start()
    reranked_distances(rows[:300], rows[300:])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.2 * 4 * 1500**2  # what grows with N alone is a tenth of a matrix here
