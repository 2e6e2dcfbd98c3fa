"""Query expansion and multi-query against their formulas written out."""

import numpy as np
import pytest

from rtool.errors import DataError
from rtool.finetune.evaluation.ranks.multi_query import averaged_queries
from rtool.finetune.evaluation.ranks.query_expansion import expanded_embeddings
from rtool.finetune.evaluation.ranks.ranking import Ranking
from rtool.finetune.evaluation.ranks.retrieval import measure_retrieval


@pytest.mark.parametrize(("count", "power"), [(1, 3.0), (4, 3.0), (4, 0.0), (99, 1.0)])
def test_each_embedding_becomes_the_weighted_mean_of_its_nearest(count, power):
    rows = np.random.default_rng(0).normal(size=(30, 6)).astype("f4")
    unit = rows.astype("f8") / np.linalg.norm(rows.astype("f8"), axis=1, keepdims=True)
    expected = []
    for one in range(30):
        near = sorted(range(30), key=lambda other, one=one: -float(unit[one] @ unit[other]))[:count]
        weights = [max(float(unit[one] @ unit[other]), 0) ** power for other in near]
        expected.append(sum(w * rows[other] for w, other in zip(weights, near, strict=True)) / len(near))
    got = expanded_embeddings(rows[:10], rows[10:], count, power)
    np.testing.assert_allclose(np.concatenate(got), expected, atol=1e-5)


def test_a_query_is_the_mean_of_its_person_under_its_camera_and_the_gallery_there_is_part_of_it():
    query = np.array([[1.0, 0], [0, 1], [4, 4]], dtype="f4")
    gallery = np.array([[3.0, 0], [9, 9], [5, 5]], dtype="f4")
    rows, identities, cameras = averaged_queries(
        query, gallery, np.array([7, 7, 7]), np.array([7, 7, 8]), np.array([0, 0, 1]), np.array([0, 2, 0])
    )
    np.testing.assert_allclose(rows, [[4 / 3, 1 / 3], [4, 4]], rtol=1e-6)
    assert (identities.tolist(), cameras.tolist()) == ([7, 7], [0, 1])


def test_of_unknown_cameras_only_queries_are_averaged():
    rows = np.array([[1.0, 0], [0, 1]], dtype="f4")
    ids, unknown = np.array([3, 3]), np.array([-1, -1])
    got, identities, _ = averaged_queries(rows, 100 * rows, ids, ids, unknown, unknown)
    assert (got.tolist(), identities.tolist()) == ([[0.5, 0.5]], [3])


def test_noise_of_single_images_averages_out():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 32))
    qid, gid = np.repeat(np.arange(20), 6), np.repeat(np.arange(20), 6)
    query = (centres[qid] + 2.5 * rng.normal(size=(120, 32))).astype("f4")
    gallery = (centres[gid] + 2.5 * rng.normal(size=(120, 32))).astype("f4")
    qcam, gcam = np.arange(120) % 2, 2 + np.arange(120) % 2
    values = [
        measure_retrieval(query, gallery, qid, gid, qcam, gcam, ranking=ranking)
        for ranking in (Ranking(), Ranking(multi_query=True), Ranking(expand=4))
    ]
    assert values[1].mAP > values[0].mAP + 0.1
    assert (values[1].queries, values[1].multi_query, values[2].expanded) == (40, True, 4)
    assert values[2].mAP != values[0].mAP


def test_query_and_gallery_of_two_sizes_are_refused():
    one = np.zeros(3, dtype=int)
    with pytest.raises(DataError, match="of 4 numbers for the queries and of 5 for the gallery"):
        measure_retrieval(np.ones((3, 4), "f4"), np.ones((3, 5), "f4"), one, one, one, one + 1)
