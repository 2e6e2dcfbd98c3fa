"""Losses against pytorch-metric-learning 2.9.0 on the same numbers (its values are literals here)."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rtool.finetune.losses.margin_losses import cosine_logits, margin_logits
from rtool.finetune.losses.pair_losses import circle_pair_loss, triplet_loss

RNG = np.random.default_rng(11)
EMBEDDINGS, WEIGHT = torch.tensor(RNG.normal(size=(8, 6))), torch.tensor(RNG.normal(size=(4, 6)))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def softmax(**margins):
    logits = margin_logits(cosine_logits(EMBEDDINGS, WEIGHT).double(), LABELS, scale=16.0, **margins)
    return F.cross_entropy(logits, LABELS)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: softmax(m2=0.5), 15.247839423655819),  # ArcFaceLoss(4, 6, margin=degrees(0.5), scale=16)
        (lambda: softmax(m2=0.0, m3=0.35), 13.699519489438304),  # CosFaceLoss(4, 6, margin=0.35, scale=16)
        (lambda: circle_pair_loss(EMBEDDINGS, LABELS, margin=0.25, scale=16.0), 27.617510589332916),  # CircleLoss
        # TripletMarginLoss(0.3) on BatchHardMiner, raw distances
        (lambda: triplet_loss(EMBEDDINGS, LABELS, margin=0.3), 1.6416252100719937),
    ],
    ids=["arcface", "cosface", "circle", "triplet"],
)
def test_agrees_with_pytorch_metric_learning(ours, theirs):
    assert ours().item() == pytest.approx(theirs, rel=1e-5)
