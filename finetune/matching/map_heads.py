"""The heads of the losses `qaconv` and `occlusion`: modules that see feature maps of all ranks.

Every rank computes these losses from the maps of all ranks, as one process with the whole batch would; so the matcher's
BatchNorms and those of the visibility head have the statistics of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.config import OcclusionLoss, QAConvLoss
from .class_maps import ClassMaps, build_classes
from .matcher import Matcher
from .score_losses import pairwise_loss, score_triplet_loss
from .visibility import VisibilityHead, visibility_loss, visibility_target

__all__ = ["OcclusionHead", "QAConvHead"]


class QAConvHead(nn.Module):
    """Pairwise, triplet and class loss over the matcher's scores of a batch."""

    def __init__(self, config: QAConvLoss, classes: int, channels: int, size: tuple[int, int]) -> None:
        """Modules with fresh weights from torch's global generator.

        Raises:
            ConfigError: maps of classes take too much memory.
        """
        super().__init__()
        self.matcher = Matcher(size, "mask" if config.visibility == "mask" else "scaling")
        self.classes = build_classes(config, classes, channels, size)
        self._config = config

    @property
    def uses_visibility(self) -> bool:
        """Whether the matcher weighs places by visibility, where it is known."""
        return self._config.visibility != "none"

    def begin_epoch(self) -> None:
        """Look for the neighbours of each class, where there are some."""
        if isinstance(self.classes, ClassMaps):
            self.classes.find_neighbours()

    def forward(self, maps: Tensor, labels: Tensor, predicted: Tensor | None) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            maps: [N, C, h, w], of all ranks.
            labels: int64 [N].
            predicted: Visibility [N, 1, h, w]; None: all counts as visible.
        """
        config = self._config
        if not config.train_map:
            maps = maps.detach()
        if predicted is not None and not config.visibility_learns:
            predicted = predicted.detach()
        scores = self.matcher.within(maps, predicted)
        loss = config.pairwise * pairwise_loss(scores, labels)
        loss = loss + config.triplet * score_triplet_loss(scores, labels, config.margin)
        if self.classes is not None:
            loss = loss + config.class_weight * self.classes(self.matcher, maps, labels, predicted)
        return loss


class OcclusionHead(nn.Module):
    """The visibility head, its loss, and the loss that a head which always says 1 would have."""

    def __init__(self, config: OcclusionLoss, channels: int) -> None:
        super().__init__()
        self.visibility = VisibilityHead(channels, config.hidden)
        self._config = config
        self._baselines: list[Tensor] = []

    def forward(self, maps: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss, a float32 scalar, and what the head says, [N, 1, h, w].

        Args:
            maps: [N, C, h, w], of all ranks.
            visible: float32 [N, 1, H, W] at the size of the images, NaN for images of which nothing is known; None
                where that is so of all.
        """
        config = self._config
        logits = self.visibility.logits(maps if config.train_map else maps.detach())
        if visible is None:
            visible = torch.full((len(maps), 1, 1, 1), torch.nan, device=maps.device)
        target, known = visibility_target(visible, (maps.shape[2], maps.shape[3]))
        if self.training:
            # A logit of 20 says 1 to the last bit of the cross-entropy that matters, and stays finite.
            always = torch.full_like(target, 20.0)
            self._baselines.append(visibility_loss(always, target, known, config.loss).detach())
        return visibility_loss(logits, target, known, config.loss), logits.sigmoid()

    def taken_baseline(self) -> Tensor | None:
        """The mean loss of a head that always says 1, over the steps since this was asked; None without steps."""
        taken, self._baselines = self._baselines, []
        return torch.stack(taken).mean() if taken else None
