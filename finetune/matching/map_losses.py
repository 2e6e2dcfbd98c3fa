"""How the losses that see a feature map come into the sum that training minimises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..config.config import FinetuneConfig, OcclusionLoss, QAConvLoss
from ..network.feature_maps import MapTap, find_map
from ..network.learner import Learner
from ..network.networks import Network, images_to_tensor
from ..processes.collectives import gather_rows
from .described import MatchingModel
from .map_heads import OcclusionHead, QAConvHead

__all__ = ["MapLosses", "find_network_map", "matching_model", "sees_map", "trains_map"]


def sees_map(config: FinetuneConfig) -> bool:
    """Whether a loss of the run sees a feature map."""
    return any(isinstance(loss, QAConvLoss | OcclusionLoss) for loss in config.losses)


def trains_map(config: FinetuneConfig) -> bool:
    """Whether a loss of the run trains the backbone through the feature map."""
    return any(isinstance(loss, QAConvLoss | OcclusionLoss) and loss.train_map for loss in config.losses)


def find_network_map(config: FinetuneConfig, network: Network) -> MapTap | None:
    """The feature map that losses see; None where none does.

    Raises:
        ConfigError: as `find_map`.
    """
    if not sees_map(config):
        return None
    size = network.preprocessing
    pixels = torch.zeros(2, size.height, size.width, size.channels, dtype=torch.uint8)
    device = next((each.device for each in network.module.parameters()), torch.device("cpu"))
    return find_map(
        network.module, images_to_tensor(pixels, size, device, False), config.model.output, config.model.map
    )


def matching_model(learner: Learner, output: int) -> MatchingModel | None:
    """The matcher of a run as it is now, with its visibility head; None where no loss trains one.

    `output` is the number of the backbone's output that is the embedding.
    """
    matched = next((head for head in learner.heads if isinstance(head, QAConvHead)), None)
    if matched is None or not isinstance(learner.maps, MapLosses):
        return None
    seen = next((head.visibility for head in learner.heads if isinstance(head, OcclusionHead)), None)
    told = seen is not None and matched.uses_visibility
    return MatchingModel(learner.maps.tap, output, matched.matcher, seen, uses_visibility=told)


class MapLosses:
    """The heads among those of a run that see the map; no module, for the heads belong to the learner."""

    def __init__(self, tap: MapTap, heads: Sequence[nn.Module], warmup_epochs: int) -> None:
        """Join them.

        Args:
            tap: The feature map.
            heads: One per loss of the run, in their order.
            warmup_epochs: Epochs in which the matcher does not weigh places by visibility.
        """
        self.tap = tap
        self.places = tuple(n for n, head in enumerate(heads) if isinstance(head, QAConvHead | OcclusionHead))
        """Which losses see the map."""
        self._qaconv = next((n for n, head in enumerate(heads) if isinstance(head, QAConvHead)), None)
        self._occlusion = next((n for n, head in enumerate(heads) if isinstance(head, OcclusionHead)), None)
        self._warmup, self._epoch = warmup_epochs, 0

    @classmethod
    def of(cls, config: FinetuneConfig, tap: MapTap | None, heads: Sequence[nn.Module]) -> MapLosses | None:
        """Those of a configuration; None where no loss sees a map.

        Raises:
            ConfigError: a batch of one image, which matches nothing.
        """
        if tap is None:
            return None
        matched = any(isinstance(loss, QAConvLoss) for loss in config.losses)
        if matched and config.data.batch < 2:
            raise ConfigError("data.batch 1: qaconv compares the images of a batch; set data.batch=2 or more")
        return cls(tap, heads, next((i.warmup_epochs for i in config.losses if isinstance(i, OcclusionLoss)), 0))

    def run(self, images: Tensor) -> tuple[Any, Tensor]:
        """The backbone's outputs and the map of images, in one pass."""
        return self.tap.run(images)

    def begin_epoch(self, epoch: int) -> None:
        """Note which epoch begins, or goes on."""
        self._epoch = epoch

    def losses(self, heads: nn.ModuleList, maps: Tensor, labels: Tensor, visible: Tensor | None) -> dict[int, Tensor]:
        """The losses by their place.

        Args:
            heads: All heads of the learner.
            maps: [N, C, h, w] of this rank.
            labels: int64 [N].
            visible: float32 [N, 1, H, W], as `OcclusionHead` takes it.
        """
        maps, labels = gather_rows(maps.float()), gather_rows(labels)
        found: dict[int, Tensor] = {}
        predicted = None
        if self._occlusion is not None:
            seen = None if visible is None else gather_rows(visible)
            found[self._occlusion], predicted = heads[self._occlusion](maps, seen)
        if self._qaconv is not None:
            head = heads[self._qaconv]
            told = isinstance(head, QAConvHead) and head.uses_visibility and self._epoch >= self._warmup
            found[self._qaconv] = head(maps, labels, predicted if told else None)
        return found
