"""Losses over the pairs of a batch, as pure functions of embeddings [N, D] and int64 labels [N]; each gives a scalar.

Anchors without a positive or without a negative in the batch are left out of the mean. They are left out by masks, not
by choosing rows, whose number a GPU would be waited for. Sources:
- Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", arXiv:1703.07737;
- Ristani and Tomasi, "Features for Multi-Target Multi-Camera Tracking and Re-Identification", CVPR 2018 (weighted);
- Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", arXiv:2002.10857 (pair form);
- Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016 (center loss);
- Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", arXiv:1904.06627;
- Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006 (contrastive).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.choices import Mining

__all__ = [
    "center_loss",
    "circle_pair_loss",
    "contrastive_loss",
    "moved_centers",
    "multi_similarity_loss",
    "pairwise_distances",
    "triplet_loss",
]


def pairwise_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances [N, N] of embeddings [N, D]: d_ij = sqrt(max(|z_i - z_j|^2, 1e-12)).

    The floor keeps the gradient of equal rows finite.
    """
    squares = embeddings.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * embeddings @ embeddings.T
    return squared.clamp(min=1e-12).sqrt()


def triplet_loss(embeddings: Tensor, labels: Tensor, *, margin: float | None = 0.3, mining: Mining = "hard") -> Tensor:
    """mean_a [m + d_ap - d_an]+, or with `margin=None` the soft form mean_a log(1 + exp(d_ap - d_an)).

    `hard`: d_ap is the largest positive and d_an the smallest negative distance; `weighted`: averages with softmax(d)
    over the positives and softmin(d) over the negatives. Without a valid anchor the loss is zero, with a zero gradient.

    Args:
        embeddings: [N, D], raw or normalised.
        labels: int64 [N].
        margin: m, in the unit of the distances; None for the soft form.
        mining: `hard` or `weighted`.
    """
    distances = pairwise_distances(embeddings)
    positive, negative = _pair_masks(labels)
    anchors, positive, negative = _anchors(positive, negative)
    if mining == "hard":
        furthest = distances.masked_fill(~positive, float("-inf")).amax(dim=1)
        closest = distances.masked_fill(~negative, float("inf")).amin(dim=1)
    else:
        furthest = (distances * distances.masked_fill(~positive, float("-inf")).softmax(dim=1)).sum(dim=1)
        closest = (distances * (-distances).masked_fill(~negative, float("-inf")).softmax(dim=1)).sum(dim=1)
    gap = furthest - closest
    return _mean_over(anchors, F.softplus(gap) if margin is None else F.relu(gap + margin))


def circle_pair_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 0.25, scale: float = 64.0) -> Tensor:
    """mean_a softplus(LSE_p(-g a_p (s_p - 1 + m)) + LSE_n(g a_n (s_n - m))) over cosines s.

    a_p = [1 + m - s_p]+ and a_n = [s_n + m]+ are detached. Without a valid anchor the loss is zero.

    Args:
        embeddings: [N, D]; they are normalised here.
        labels: int64 [N].
        margin: m.
        scale: g, the paper's gamma.
    """
    unit = F.normalize(embeddings)
    similar = unit @ unit.T
    positive, negative = _pair_masks(labels)
    anchors, positive, negative = _anchors(positive, negative)
    fixed = similar.detach()
    towards = -scale * (1 + margin - fixed).clamp(min=0) * (similar - 1 + margin)
    apart = scale * (fixed + margin).clamp(min=0) * (similar - margin)
    pulled = towards.masked_fill(~positive, float("-inf")).logsumexp(dim=1)
    pushed = apart.masked_fill(~negative, float("-inf")).logsumexp(dim=1)
    return _mean_over(anchors, F.softplus(pulled + pushed))


def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> Tensor:
    """mean_a log(1 + sum_p exp(-alpha (s_p - lambda))) / alpha + log(1 + sum_n exp(beta (s_n - lambda))) / beta.

    The sums over cosines s run over mined pairs: positives with s_p - epsilon < max_n s_n, and negatives with
    s_n + epsilon > min_p s_p (equations 7, 8 and 10 of the paper). An anchor whose pairs are all easy counts as zero.
    Without a valid anchor the loss is zero, with a zero gradient.

    Args:
        embeddings: [N, D]; they are normalised here.
        labels: int64 [N].
        alpha: Sharpness of the positive pairs.
        beta: Sharpness of the negative pairs.
        base: lambda.
        epsilon: Width of the mining.
    """
    unit = F.normalize(embeddings)
    similar = unit @ unit.T
    positive, negative = _pair_masks(labels)
    anchors, positive, negative = _anchors(positive, negative)
    fixed = similar.detach()
    hardest_negative = fixed.masked_fill(~negative, float("-inf")).amax(dim=1, keepdim=True)
    hardest_positive = fixed.masked_fill(~positive, float("inf")).amin(dim=1, keepdim=True)
    pulled = positive & (fixed - epsilon < hardest_negative)
    pushed = negative & (fixed + epsilon > hardest_positive)
    losses = _soft_sum(-alpha * (similar - base), pulled) / alpha + _soft_sum(beta * (similar - base), pushed) / beta
    return _mean_over(anchors, losses)


def contrastive_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """1/2 mean_p d_p^2 + 1/2 mean_n (m - d_n)^2 over positive pairs p and the negative pairs n nearer than m.

    A mean without a pair is zero. The mean over violating pairs, not over all, keeps the few hard negatives of a large
    batch from vanishing among the easy ones.

    Args:
        embeddings: [N, D], raw or normalised.
        labels: int64 [N].
        margin: m, in the unit of the distances.
    """
    distances = pairwise_distances(embeddings)
    positive, negative = _pair_masks(labels)
    near = negative & (distances.detach() < margin)
    pull = torch.where(positive, distances, 0).square().sum() / positive.sum().clamp(min=1)
    push = torch.where(near, margin - distances, 0).square().sum() / near.sum().clamp(min=1)
    return 0.5 * (pull + push)


def center_loss(embeddings: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """mean_i 1/2 |z_i - c_y|^2 of embeddings z [N, D] with labels y [N] and centers c [C, D]: a scalar.

    `moved_centers` updates the centers, not this loss's gradient.
    """
    return 0.5 * (embeddings - centers[labels]).square().sum(dim=1).mean()


def moved_centers(embeddings: Tensor, labels: Tensor, centers: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Centers [C, D] after a batch: c_j + alpha sum_{i: y_i = j} (z_i - c_j) / (1 + n_j) with n_j rows of class j.

    The update of Wen et al. (ECCV 2016, equation 4); it depends neither on the loss's weight nor on the learning rate.
    Centers of classes that are not in the batch stay.
    """
    pulls = torch.zeros_like(centers).index_add_(0, labels, embeddings - centers[labels])
    counts = torch.zeros_like(centers[:, 0]).index_add_(0, labels, torch.ones_like(embeddings[:, 0]))
    return centers + alpha * pulls / (1 + counts)[:, None]


def _anchors(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows have a pair of both kinds, bool [N], and the masks [N, N], all true in other rows.

    A row without any pair would be an empty maximum or softmax, whose gradient is NaN also where it counts for nothing.
    """
    anchors = positive.any(dim=1) & negative.any(dim=1)
    others = ~anchors[:, None]
    return anchors, positive | others, negative | others


def _mean_over(anchors: Tensor, losses: Tensor) -> Tensor:
    """The mean of losses [N] over the anchors; zero, with a zero gradient, without any."""
    return torch.where(anchors, losses, 0).sum() / anchors.sum().clamp(min=1)


def _soft_sum(exponents: Tensor, chosen: Tensor) -> Tensor:
    """log(1 + sum of exp over the chosen entries of each row) of [N, N]: [N]; exactly zero where none is chosen."""
    rows = exponents.masked_fill(~chosen, float("-inf"))
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1).logsumexp(dim=1)


def _pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positive pairs (same identity, another image) and negative pairs (another identity): bool [N, N] each."""
    same = labels[:, None] == labels[None, :]
    other_image = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & other_image, ~same
