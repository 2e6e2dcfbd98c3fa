"""How an epoch is laid out over processes: the same images with the same changes, however many there are."""

import numpy as np
import pytest

from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.dataset import NOBODY
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.formats.unlabelled import open_unlabelled
from rtool.finetune.data.joined import join_datasets
from rtool.finetune.data.loading import _BatchKeys
from rtool.finetune.training.epoch import epoch_batches, rank_share

LABELLED, OTHERS = (
    "synthetic-people:identities=6,images=4,size=16x8",
    "synthetic-people:identities=2,images=4,size=16x8",
)


def config(batch: int, others: int | None) -> FinetuneConfig:
    distil = None if others is None else {"teachers": "t", "unlabelled": "u", "unlabelled_batch": others}
    values = {"model": {"reference": "m"}, "data": {"train": "a", "batch": batch}, "losses": [{"kind": "arcface"}]}
    return FinetuneConfig.model_validate({**values, "distil": distil})


@pytest.mark.parametrize("others", [None, 3])
def test_two_processes_see_what_one_sees_with_the_same_changes(others):
    dataset = open_dataset(LABELLED)
    if others is not None:
        dataset = join_datasets({"a": dataset, "b": open_unlabelled(OTHERS)})
    one = epoch_batches(config(4, others and 2 * others), dataset, ranks=1, epoch=3)
    two = epoch_batches(config(2, others), dataset, ranks=2, epoch=3)
    whole = list(_BatchKeys(one, rank_share(config(4, others and 2 * others), one, 0, 1), 0))
    shares = [list(_BatchKeys(two, rank_share(config(2, others), two, rank, 2), 0)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted([key for part in parts for key in part])  # position decides the changes
        assert {len(part) for part in parts} == {len(batch) // 2}


def test_images_with_labels_come_first_and_the_others_go_round():
    dataset = join_datasets({"a": open_dataset(LABELLED), "b": open_unlabelled(OTHERS)})
    run = config(4, 3)
    plan = epoch_batches(run, dataset, ranks=2, epoch=0)
    assert plan.shape == (3, 2 * 7)
    for rank in range(2):
        nobody = dataset.identities[plan[:, rank_share(run, plan, rank, 2)]] == NOBODY
        assert (nobody == [False] * 4 + [True] * 3).all()
    drawn = plan[dataset.identities[plan] == NOBODY]
    assert np.bincount(drawn)[24:].min() >= 2  # 18 draws of 8 images, each as often as the others, but for one
