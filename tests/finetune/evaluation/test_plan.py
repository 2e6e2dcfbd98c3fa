"""What can be measured follows from labels; what cannot is refused before anything is decoded."""

import numpy as np
import pytest
from PIL import Image

from rtool.errors import ConfigError, DataError
from rtool.finetune.data.dataset import Dataset
from rtool.finetune.evaluation.plan import plan_evaluation
from rtool.finetune.evaluation.ranks.ranking import Ranking


class Undecodable:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index) -> Image.Image:
        raise AssertionError("an image was decoded")


def labelled(identities, cameras=-1, pairs=None):
    count = len(identities)
    return Dataset(
        name="set",
        images=Undecodable(count),
        identities=np.asarray(identities),
        cameras=np.broadcast_to(np.asarray(cameras), count).copy(),
        names=tuple(map(str, range(count))),
        pairs=None if pairs is None else np.asarray(pairs),
    )


FACES = labelled(np.repeat(np.arange(6), 4))
PEOPLE = labelled(np.repeat(np.arange(6), 4), np.arange(24) % 2)
PAIRS = labelled(np.arange(24), pairs=[(2 * i, 2 * i + 1, i % 2) for i in range(12)])


@pytest.mark.parametrize(
    ("dataset", "protocol", "expected", "usual"),
    [
        (FACES, None, "verification", "accuracy"),
        (PEOPLE, None, "retrieval", "mAP"),
        (PEOPLE, "verification", "verification", "accuracy"),
        (FACES, "retrieval", "retrieval", "mAP"),
        (PAIRS, None, "verification", "accuracy"),
    ],
)
def test_the_protocol_follows_from_the_labels_and_the_metric_from_the_protocol(dataset, protocol, expected, usual):
    plan = plan_evaluation(dataset, protocol)
    assert plan.protocol == expected
    assert plan.metric(None) == usual


@pytest.mark.parametrize(
    ("dataset", "protocol", "message"),
    [
        (PAIRS, "retrieval", "use the verification protocol"),
        (labelled(np.arange(20)), None, "0 pairs of one identity"),
        (labelled(np.arange(20)), "retrieval", "the only one of its identity and camera.*column `query` of a manifest"),
        (labelled(np.repeat(np.arange(6), 4), np.repeat(np.arange(6), 4)), "retrieval", "no query has an image"),
        (
            labelled(np.arange(24), pairs=[(2 * i, 2 * i + 1, 1) for i in range(12)]),
            None,
            "12 pairs of one person and 0",
        ),
        (labelled(np.arange(8), pairs=[(2 * i, 2 * i + 1, i % 2) for i in range(4)]), None, "at least 10 pairs"),
    ],
)
def test_labels_that_do_not_fit_the_protocol_are_refused(dataset, protocol, message):
    with pytest.raises(DataError, match=message):
        plan_evaluation(dataset, protocol)


@pytest.mark.parametrize(
    ("dataset", "metric", "message"),
    [
        (PEOPLE, "rank99", "retrieval of these data has no 'rank99'; did you mean rank5"),
        (PEOPLE, "queries", "known: mAP"),
        (PEOPLE, "accuracy", "known: mAP"),
        (PAIRS, "rank1", "known: accuracy"),
        (FACES, "accuracy_std", "did you mean accuracy"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(dataset, metric, message):
    with pytest.raises(ConfigError, match=message):
        plan_evaluation(dataset).metric(metric)
    assert plan_evaluation(FACES).metric("rank1") == "rank1"


def test_pairs_are_not_re_ranked():
    with pytest.raises(
        ConfigError, match=r"evaluation\.rerank: .* is measured by verification, which ranks no gallery; leave it out"
    ):
        plan_evaluation(FACES, ranking=Ranking(rerank=True))
    assert plan_evaluation(PEOPLE, ranking=Ranking(rerank=True)).ranking.rerank
