"""The visibility head: how much of each location of a feature map is visible, learned from masks of known place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .matcher import area_average

__all__ = ["VisibilityHead", "visibility_loss", "visibility_target"]


class VisibilityHead(nn.Module):
    """Conv 3x3 - BatchNorm - ReLU - Conv 1x1 - sigmoid: maps [N, C, h, w] to visibility [N, 1, h, w], 1 = visible."""

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.score = nn.Conv2d(hidden, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Visibility float32 [N, 1, h, w]."""
        return self.logits(maps).sigmoid()

    def logits(self, maps: Tensor) -> Tensor:
        """Its logits float32 [N, 1, h, w]."""
        wide = maps if maps.dtype == torch.float64 else maps.float()
        scores: Tensor = self.score(F.relu(self.bn(self.conv(wide))))
        return scores


def visibility_target(visible: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the head should say at the size of its map, and for which images that is known.

    Args:
        visible: float32 [N, 1, H, W], 1 = visible; an image of which nothing is known is NaN throughout.
        size: Height and width of the map.

    Returns:
        Area averages [N, 1, h, w], 1 where unknown; and bool [N].
    """
    known = visible.flatten(1).isfinite().all(1)
    target = area_average(torch.where(known[:, None, None, None], visible, torch.ones_like(visible)), size)
    return target, known


def visibility_loss(logits: Tensor, target: Tensor, known: Tensor, kind: Literal["mse", "bce"] = "mse") -> Tensor:
    """Mean loss over the images that are known: a scalar; 0, with a zero gradient, where none is.

    Args:
        logits: [N, 1, h, w].
        target: Visibility [N, 1, h, w].
        known: bool [N].
        kind: Squared error of the visibility, or binary cross-entropy.
    """
    if kind == "mse":
        errors = (logits.sigmoid() - target).square()
    else:
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weights = known.to(errors.dtype)
    return (errors.flatten(1).mean(1) * weights).sum() / weights.sum().clamp(min=1)
