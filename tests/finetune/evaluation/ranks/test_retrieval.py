"""CMC and mAP against hand-computed rankings and a loop written from the protocol's text."""

import numpy as np
import pytest

from rtool.errors import DataError, GateError
from rtool.finetune.evaluation.ranks.ranking import Ranking
from rtool.finetune.evaluation.ranks.reranking import reranked_distances
from rtool.finetune.evaluation.ranks.retrieval import has_match, measure_retrieval


def by_the_protocol(query, gallery, qid, gid, qcam, gcam):
    """One query at a time, one gallery image at a time."""
    aps, first, inps = [], [], []
    for q, i, c in zip(query, qid, qcam, strict=True):
        ranked = sorted(range(len(gallery)), key=lambda g: -float(q @ gallery[g]))
        hits, seen, precisions, last = 0, 0, [], 0
        for g in ranked:
            if gid[g] == i and gcam[g] == c and c >= 0:
                continue
            seen += 1
            if gid[g] == i:
                hits += 1
                precisions.append(hits / seen)
                last = seen
                if hits == 1:
                    first.append(seen)
        if hits:
            aps.append(sum(precisions) / hits)
            inps.append(hits / last)
    return np.mean(aps), np.mean(np.array(first) <= 1), np.mean(np.array(first) <= 5), np.mean(inps), len(aps)


@pytest.mark.parametrize("unknown_cameras", [False, True])
def test_agrees_with_the_protocol_written_out(unknown_cameras):
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(20, 8)).astype("f4"), rng.normal(size=(60, 8)).astype("f4")
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    qid, gid = rng.integers(0, 6, 20), rng.integers(0, 8, 60)
    qcam, gcam = rng.integers(0, 3, 20), rng.integers(0, 3, 60)
    if unknown_cameras:
        qcam, gcam = np.full(20, -1), np.full(60, -1)
    result = measure_retrieval(query, gallery, qid, gid, qcam, gcam)
    mean_ap, rank1, rank5, minp, queries = by_the_protocol(query, gallery, qid, gid, qcam, gcam)
    assert result.mAP == pytest.approx(mean_ap)
    assert result.rank1 == pytest.approx(rank1)
    assert result.rank5 == pytest.approx(rank5)
    assert result.mINP == pytest.approx(minp)
    assert (result.queries, result.skipped) == (queries, 20 - queries)


def test_hand_computed_ranking_with_the_same_camera_image_dropped():
    query = np.array([[1.0, 0.0]], dtype="f4")
    angles = np.deg2rad([0, 10, 20, 30])  # ranks 1 to 4
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("f4")
    result = measure_retrieval(
        query, gallery, np.array([7]), np.array([7, 3, 7, 7]), np.array([1]), np.array([1, 2, 2, 3])
    )
    # rank 1 is of the same camera and dropped; left: wrong, right, right
    assert result.mAP == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result.rank1 == 0.0
    assert result.rank5 == 1.0
    assert result.mINP == pytest.approx(2 / 3)


def test_queries_without_any_match_are_an_error():
    rows = np.eye(2, dtype="f4")
    with pytest.raises(DataError, match="no query"):
        measure_retrieval(rows, rows, np.array([0, 1]), np.array([2, 3]), np.zeros(2, int), np.zeros(2, int))


def test_embeddings_that_are_not_finite_are_refused():
    rows = np.full((6, 4), np.nan, dtype="f4")
    identities, cameras = np.arange(6) % 2, np.full(6, -1)
    with pytest.raises(GateError, match="6 of 6 embeddings"):
        measure_retrieval(rows, rows, identities, identities, cameras, cameras)


@pytest.mark.parametrize(
    ("query", "gallery", "expected"),
    [
        (((0, 1),), ((0, 1), (1, 2)), False),  # (identity, camera): only the same camera saw it
        (((0, 1),), ((0, 1), (0, 2)), True),
        (((0, 1), (1, 1)), ((1, 2),), True),
        (((0, -1),), ((0, -1),), True),
        (((0, -1),), ((1, -1),), False),
    ],
)
def test_a_match_is_an_image_of_the_identity_from_another_camera(query, gallery, expected):
    (qid, qcam), (gid, gcam) = np.array(query).T, np.array(gallery).T
    assert has_match(qid, gid, qcam, gcam) is expected


def test_re_ranking_decides_the_order_and_the_same_camera_is_dropped_after_it():
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(5, 6))
    qid, gid = np.repeat(np.arange(5), 2), np.repeat(np.arange(5), 8)
    query = (centres[qid] + rng.normal(size=(10, 6))).astype("f4")
    gallery = (centres[gid] + rng.normal(size=(40, 6))).astype("f4")
    qcam, gcam = np.arange(10) % 2, np.arange(40) % 4
    result = measure_retrieval(query, gallery, qid, gid, qcam, gcam, ranking=Ranking(rerank=True))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery)]
    distances = reranked_distances(*unit)
    scores = []
    for q in range(10):
        ranked = [g for g in np.argsort(distances[q]) if not (gid[g] == qid[q] and gcam[g] == qcam[q])]
        hits = [rank for rank, g in enumerate(ranked, 1) if gid[g] == qid[q]]
        scores.append(np.mean([number / rank for number, rank in enumerate(hits, 1)]))
    assert result.mAP == pytest.approx(np.mean(scores))
    assert result.reranked
    assert result.mAP != measure_retrieval(query, gallery, qid, gid, qcam, gcam).mAP
