"""Metrics of several sets: their names, their mean, and the one that chooses the best checkpoint."""

import numpy as np
import pytest

from rtool.errors import ConfigError
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.evaluation.evaluation import evaluate_embeddings
from rtool.finetune.evaluation.plan import plan_evaluation
from rtool.finetune.evaluation.ranks.ranking import Ranking
from rtool.finetune.evaluation.ranks.retrieval import measure_retrieval
from rtool.finetune.evaluation.several_sets import choose_metric, joined_metrics

SETS = {
    name: open_dataset(f"synthetic-people:identities=6,images=6,seed={seed},size=16x8")
    for name, seed in (("a", 1), ("b", 2))
}
FACES = open_dataset("synthetic-faces:identities=6,images=6,seed=1,size=16x16")
PLANS = {name: plan_evaluation(dataset) for name, dataset in SETS.items()}


def embed(pixels):
    return pixels.reshape(len(pixels), -1).astype(np.float32) - 128


def test_a_mean_is_that_of_the_sets_measured_one_by_one():
    results = {name: evaluate_embeddings(embed, dataset, resize=np.asarray) for name, dataset in SETS.items()}
    values = joined_metrics(PLANS, results)
    assert values["a.mAP"] == results["a"].mAP != results["b"].mAP
    assert values["mean.mAP"] == (results["a"].mAP + results["b"].mAP) / 2
    assert values["mean.rank20"] == (results["a"].rank20 + results["b"].rank20) / 2
    assert "mean.queries" not in values
    assert joined_metrics({"": PLANS["a"]}, {"": results["a"]}) == vars(results["a"])


def test_the_metric_that_chooses():
    assert choose_metric(PLANS, None) == "mean.mAP"
    assert choose_metric(PLANS, "b.rank20") == "b.rank20"
    assert choose_metric({"": PLANS["a"]}, None) == "mAP"
    assert choose_metric({"only": PLANS["a"]}, None) == "only.mAP"
    with pytest.raises(ConfigError, match=r"no 'mean\.map'; did you mean mean\.mAP"):
        choose_metric(PLANS, "mean.map")


def test_sets_of_two_protocols_have_no_mean():
    plans = {**PLANS, "faces": plan_evaluation(FACES)}
    assert choose_metric(plans, None) == "a.mAP"
    with pytest.raises(ConfigError, match=r"no 'mean\.rank1'"):
        choose_metric(plans, "mean.rank1")


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_ranking_is_by_its_distance_in_float64(distance):
    rng = np.random.default_rng(0)
    query, gallery = (
        rng.normal(3, 2, (n, 5)).astype(np.float32) * rng.uniform(0.1, 9, (n, 1)).astype(np.float32) for n in (12, 60)
    )
    ids, others = rng.integers(0, 6, 12), rng.integers(0, 6, 60)
    none = np.full(60, -1)
    got = measure_retrieval(query, gallery, ids, others, none[:12], none, ranking=Ranking(distance))
    a, b = query.astype(float), gallery.astype(float)
    if distance == "cosine":
        a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    order = np.linalg.norm(a[:, None] - b[None], axis=2).argsort(axis=1)
    first = [np.flatnonzero(others[row] == identity)[0] for row, identity in zip(order, ids, strict=True)]
    expected = [float(np.mean([place < count for place in first])) for count in (1, 5, 10, 20)]
    assert [got.rank1, got.rank5, got.rank10, got.rank20] == expected
    assert got.distance == distance


def test_re_ranking_follows_its_numbers_and_the_scale_of_raw_embeddings_changes_nothing():
    rng = np.random.default_rng(1)
    query, gallery = (rng.normal(size=(n, 4)).astype(np.float32) for n in (8, 40))
    ids, others, none = rng.integers(0, 4, 8), rng.integers(0, 4, 40), np.full(40, -1)

    def measured(scale=1.0, **numbers):
        ranking = Ranking("euclidean", True, **numbers)
        return measure_retrieval(
            query * np.float32(scale), gallery * np.float32(scale), ids, others, none[:8], none, ranking=ranking
        ).mAP

    assert measured(1e25) == pytest.approx(measured(), abs=1e-6)
    assert len({measured(), measured(k1=5), measured(k2=1), measured(share=1.0)}) == 4
