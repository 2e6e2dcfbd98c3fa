"""Losses over the matcher's scores of a batch, as pure functions of scores [N, N] and int64 labels [N].

An image and itself make no pair, anywhere. Liao and Shao, arXiv:1904.10424 (pairwise) and arXiv:2104.01546 (triplet);
their code counts the pair of an image with itself, which adds a constant that teaches nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["pairwise_loss", "score_triplet_loss"]


def pairwise_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the score as logit of "the same identity", summed over a row, mean over rows: a scalar.

    Args:
        scores: [N, N]; the diagonal is not read.
        labels: int64 [N].
    """
    same = labels[:, None] == labels[None, :]
    errors = F.binary_cross_entropy_with_logits(scores, same.to(scores.dtype), reduction="none")
    return errors.masked_fill(_itself(labels), 0).sum(1).mean()


def score_triplet_loss(scores: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """mean_i [m - min positive + max negative]+ over the rows that have a positive and a negative; 0 if none has."""
    same = labels[:, None] == labels[None, :]
    positive, negative = same & ~_itself(labels), ~same
    valid = positive.any(1) & negative.any(1)
    # Rows without either take part with finite numbers and weight 0, so that their gradient is 0 and not NaN.
    lowest = scores.masked_fill(~positive, torch.inf).amin(1).masked_fill(~valid, 0)
    highest = scores.masked_fill(~negative, -torch.inf).amax(1).masked_fill(~valid, 0)
    weights = valid.to(scores.dtype)
    return (F.relu(margin - lowest + highest) * weights).sum() / weights.sum().clamp(min=1)


def _itself(labels: Tensor) -> Tensor:
    return torch.eye(len(labels), dtype=torch.bool, device=labels.device)
