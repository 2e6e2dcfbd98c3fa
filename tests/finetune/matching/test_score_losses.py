"""Losses over scores against numbers worked out by hand."""

import pytest
import torch

from rtool.finetune.matching.score_losses import pairwise_loss, score_triplet_loss

SCORES = torch.tensor([[9.0, 2, 1, -1], [2, 9, 0, 3], [1, 0, 9, 4], [-1, 3, 4, 9]])
LABELS = torch.tensor([0, 0, 1, 1])


def test_pairwise_leaves_the_pair_of_an_image_with_itself_out():
    assert pairwise_loss(SCORES, LABELS).item() == pytest.approx(2.75667, abs=1e-5)
    changed = SCORES.clone().fill_diagonal_(-50)
    assert pairwise_loss(changed, LABELS).item() == pairwise_loss(SCORES, LABELS).item()


@pytest.mark.parametrize(("margin", "expected"), [(1, 0.5), (16, 15.0)])
def test_triplet_takes_the_lowest_positive_and_the_highest_negative(margin, expected):
    assert score_triplet_loss(SCORES, LABELS, margin).item() == pytest.approx(expected, abs=1e-6)


def test_rows_without_a_positive_or_a_negative_count_nothing():
    labels = torch.tensor([0, 0, 1, 2])  # rows 2 and 3 have no positive
    scores = SCORES.clone().requires_grad_()
    loss = score_triplet_loss(scores, labels, 1.0)
    assert loss.item() == pytest.approx((0 + max(1 - 2 + 3, 0)) / 2)
    loss.backward()
    assert scores.grad.isfinite().all()
    assert not scores.grad[2:].any()
    alone = SCORES.clone().requires_grad_()
    none = score_triplet_loss(alone, torch.zeros(4, dtype=torch.int64), 1.0)
    none.backward()
    assert none.item() == 0
    assert not alone.grad.any()
