"""Whom the matcher confuses, and the batches that are made of them."""

import numpy as np
import pytest
import torch
from torch import nn

from rtool.errors import DataError
from rtool.finetune.data.samplers import plan_epoch, plan_graph
from rtool.finetune.matching.described import MatchingModel
from rtool.finetune.matching.matcher import Matcher
from rtool.finetune.matching.nearest_people import nearest_people, one_image_each
from rtool.finetune.network.feature_maps import find_map

IDENTITIES = np.repeat(np.arange(6), [2, 3, 4, 2, 5, 2])


def test_the_nearest_are_those_of_the_highest_score():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    images = torch.randn(6, 3, 4, 4)
    model = MatchingModel(find_map(backbone, images[:2], 0), 0, Matcher((2, 2)).eval(), None)
    found = nearest_people(model, lambda numbers: images[torch.from_numpy(numbers)], np.arange(6), 3)
    seen = model.describe(images)
    scores = model.all_scores(seen, seen).fill_diagonal_(-torch.inf)
    assert found.tolist() == scores.argsort(1, descending=True)[:, :3].tolist()


def test_one_image_of_each_identity_is_drawn():
    drawn = one_image_each(IDENTITIES, np.random.default_rng(0))
    assert IDENTITIES[drawn].tolist() == list(range(6))


def test_each_batch_is_an_identity_with_its_nearest():
    nearest = np.array([[1, 2], [0, 2], [3, 4], [2, 5], [5, 0], [4, 3]])
    plan = plan_graph(IDENTITIES, nearest, identities_per_batch=3, images_per_identity=2, rng=np.random.default_rng(1))
    people = IDENTITIES[plan].reshape(6, 3, 2)
    assert (people[:, :, 0] == people[:, :, 1]).all()
    rows = {row[0]: row[1:].tolist() for row in people[:, :, 0]}
    assert rows == {own: others.tolist() for own, others in enumerate(nearest)}
    assert all(len(set(row)) == 6 for row in plan)


def test_a_plan_without_a_network_has_as_many_batches():
    settings = {"batch": 6, "images_per_identity": 3, "ranks": 1, "seed": 0}
    plan = plan_epoch("graph", IDENTITIES, IDENTITIES, epoch=0, **settings)
    assert plan.shape == (6, 6)
    again = plan_epoch("graph", IDENTITIES, IDENTITIES, epoch=0, **settings)
    assert (plan == again).all()


@pytest.mark.parametrize(
    ("batch", "message"), [(14, "need that many, got 6"), (5, "as graph needs"), (2, "batches of one identity")]
)
def test_batches_that_cannot_be_made_are_refused(batch, message):
    with pytest.raises(DataError, match=message):
        plan_epoch("graph", IDENTITIES, IDENTITIES, batch=batch, images_per_identity=2, ranks=1, seed=0, epoch=0)
