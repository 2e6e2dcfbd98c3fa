"""Softmax cross-entropy of plain classifiers, as pure functions of logits: with label smoothing, and over parts.

Sources: label smoothing, Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567,
section 7; parts, Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling" (PCB), arXiv:1711.09349.
PCB adds up the losses of its parts; here they are averaged, so that their weight does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["parts_loss", "softmax_loss"]


def softmax_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """mean_i -sum_j q_ij log softmax(z_i)_j with q_ij = (1 - e) [j = y_i] + e / C: a scalar.

    Args:
        logits: z [N, C].
        labels: y, int64 [N].
        smoothing: e in 0..1; 0 is the plain cross-entropy.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def parts_loss(logits: Sequence[Tensor], labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """1/P sum_p softmax_loss(z_p, y): the mean over the logits [N, C] of each of P parts, a scalar."""
    return torch.stack([softmax_loss(part, labels, smoothing=smoothing) for part in logits]).mean()
