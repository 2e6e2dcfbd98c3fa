"""A feature map per class, against which the images of a batch are scored.

Learned maps: Liao and Shao, arXiv:1904.10424 (class neighbours). A memory of the last map of each class: the class
memory loss of their code, whose focal cross-entropy is (1 - p)^2 times that of each pair.

For 85,742 classes of MS1MV2 and maps of 512x7x7, learned maps take 8.6 GB, and as much again for gradients and for each
state of the optimizer. `data.sampler: graph` needs none of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..config.config import QAConvLoss
from .best_matches import unit_vectors
from .matcher import Matcher

__all__ = ["ClassMaps", "ClassMemory", "build_classes", "class_bytes"]

_FLOAT = 4
_COPIES = {"embedding": 3, "memory": 1}
"""Learned maps have a gradient and at least one state of the optimizer."""
_ROWS = 512
"""Classes whose neighbours are looked for at a time."""


def class_bytes(loss: QAConvLoss, classes: int, channels: int, size: tuple[int, int]) -> int:
    """Bytes that the maps of all classes take in training; 0 where there are none."""
    if loss.classes == "none":
        return 0
    return _FLOAT * _COPIES[loss.classes] * classes * channels * size[0] * size[1]


def build_classes(loss: QAConvLoss, classes: int, channels: int, size: tuple[int, int]) -> nn.Module | None:
    """What `loss.classes` names; None for none.

    Raises:
        ConfigError: the maps take more than `loss.memory_gb`.
    """
    needed = class_bytes(loss, classes, channels, size)
    if needed > loss.memory_gb * 1e9:
        raise ConfigError(
            f"losses: qaconv with classes {loss.classes}: maps of {classes} classes ({channels}x{size[0]}x{size[1]}) "
            f"take {needed / 1e9:.1f} GB in training, more than memory_gb {loss.memory_gb:g}; use classes none with "
            "data.sampler=graph, which needs none of it, or raise losses.N.memory_gb"
        )
    if loss.classes == "embedding":
        return ClassMaps(classes, channels, size, loss.neighbours)
    return ClassMemory(classes, channels, size) if loss.classes == "memory" else None


class ClassMaps(nn.Module):
    """Learned maps [K, C h w]; each image is compared with the classes nearest to its own."""

    neighbours: Tensor

    def __init__(self, classes: int, channels: int, size: tuple[int, int], neighbours: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, channels * size[0] * size[1]) / channels**0.5)
        self.register_buffer("neighbours", torch.zeros(classes, 1 + min(neighbours, classes - 1), dtype=torch.int64))
        self.find_neighbours()

    @torch.no_grad()
    def find_neighbours(self) -> None:
        """Take for each class itself, first, and the nearest others by the cosine of the flattened maps."""
        units = F.normalize(self.weight)
        for start in range(0, len(units), _ROWS):
            similar = units[start : start + _ROWS] @ units.T
            own = torch.arange(start, start + len(similar), device=units.device)
            similar.scatter_(1, own[:, None], torch.inf)  # itself comes first
            self.neighbours[start : start + _ROWS] = similar.topk(self.neighbours.shape[1]).indices

    def forward(self, matcher: Matcher, maps: Tensor, labels: Tensor, visible: Tensor | None) -> Tensor:
        """Mean cross-entropy of maps [N, C, h, w] with int64 labels [N] over their own class and its neighbours.

        Other classes have no logit, which is the same as a logit of minus infinity.
        """
        wanted = self.neighbours[labels]
        count = wanted.shape[1]
        rows = torch.arange(len(maps), device=maps.device).repeat_interleave(count)
        shown = None if visible is None else visible[rows]
        own = self.weight[wanted.flatten()].view(-1, *maps.shape[1:])
        scores = matcher.pairs(own, maps[rows], None, shown).view(len(maps), count)
        return F.cross_entropy(scores, torch.zeros_like(labels))  # the own class is the first


class ClassMemory(nn.Module):
    """The last map of each class, as unit vectors per location; classes that were not met yet have no score."""

    kernels: Tensor
    met: Tensor

    def __init__(self, classes: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.zeros(classes, channels, *size))
        self.register_buffer("met", torch.zeros(classes))

    def forward(self, matcher: Matcher, maps: Tensor, labels: Tensor, visible: Tensor | None) -> Tensor:
        """Focal cross-entropy (1 - p)^2 of each score, summed over the classes met, mean over maps [N, C, h, w].

        In training mode the memory then takes these maps, that of the last image of a class.
        """
        scores: Tensor = matcher(self.kernels, maps, None, visible).T
        same = F.one_hot(labels, len(self.kernels)).to(scores.dtype)
        errors = F.binary_cross_entropy_with_logits(scores, same, reduction="none")
        right = torch.where(same > 0, scores, -scores).sigmoid()
        loss = ((1 - right).square() * errors * self.met.clone()).sum(1).mean()
        if self.training:
            self._remember(maps.detach(), labels)
        return loss

    def _remember(self, maps: Tensor, labels: Tensor) -> None:
        """Keep the last map of each class; which of several writes wins is not left to the device."""
        units = unit_vectors(maps).transpose(1, 2).reshape(maps.shape)
        order = torch.arange(len(labels), device=labels.device)
        last = torch.full((len(self.kernels),), -1, device=labels.device).scatter_reduce(0, labels, order, "amax")
        kept = last[labels] == order
        # Rows that are not the last of their class write what that one writes.
        chosen = torch.where(kept, order, last[labels])
        self.kernels[labels] = units[chosen].to(self.kernels.dtype)
        self.met[labels] = 1.0
