"""Loss terms that training adds up: each takes embeddings [N, D] and labels [N] and gives one number.

Heads that own class weights or centres are modules; pair losses own nothing and look at the batch of all ranks.
Formulas are in `softmax_losses`, `margin_losses` and `pair_losses`; here live parameters, buffers and what is shared
between ranks. All arithmetic is float32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..config.config import (
    AdaFaceLoss,
    ArcFaceLoss,
    CenterLoss,
    CircleLoss,
    CirclePairLoss,
    CosFaceLoss,
    LossConfig,
    PartialFCLoss,
    PartsLoss,
    SoftmaxLoss,
    TripletLoss,
)
from ..processes.collectives import all_reduce_sum, gather_rows
from .margin_losses import adaface_logits, circle_logits, cosine_logits, margin_logits
from .pair_losses import center_loss, circle_pair_loss, moved_centers, triplet_loss
from .partial_fc import PartialFC
from .softmax_losses import parts_loss, softmax_loss

__all__ = ["AdaFaceHead", "CenterHead", "CosineHead", "LinearHead", "PairHead", "PartsHead", "build_head"]


class LinearHead(nn.Module):
    """Softmax cross-entropy of a linear classifier."""

    def __init__(self, dimension: int, classes: int, smoothing: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension).normal_(0, 0.001))
        self.bias = nn.Parameter(torch.zeros(classes))
        self._smoothing = smoothing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss: a scalar."""
        return softmax_loss(self.logits(embeddings), labels, smoothing=self._smoothing)

    def logits(self, embeddings: Tensor) -> Tensor:
        """[N, C] of embeddings [N, D]."""
        return F.linear(embeddings.float(), self.weight, self.bias)


class PartsHead(nn.Module):
    """One linear classifier for each equal slice of the embedding; the mean of their cross-entropies."""

    def __init__(self, dimension: int, classes: int, parts: int, smoothing: float) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(LinearHead(dimension // parts, classes, smoothing) for _ in range(parts))
        self._smoothing = smoothing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss: a scalar."""
        slices = embeddings.chunk(len(self.classifiers), dim=1)
        classifiers = cast("list[LinearHead]", list(self.classifiers))
        logits = [classifier.logits(part) for classifier, part in zip(classifiers, slices, strict=True)]
        return parts_loss(logits, labels, smoothing=self._smoothing)


class CosineHead(nn.Module):
    """Softmax cross-entropy over logits made from the cosines to class weights [C, D]."""

    def __init__(self, dimension: int, classes: int, logits: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension).normal_(0, 0.01))
        self._logits = logits

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss: a scalar."""
        return F.cross_entropy(self._logits(cosine_logits(embeddings, self.weight), labels), labels)


class AdaFaceHead(nn.Module):
    """AdaFace: the margin follows image quality, measured by the embedding's norm against running statistics.

    Mean and deviation of the norms are those of the batch of all ranks, and move by `momentum` a step.
    """

    norm_mean: Tensor
    norm_deviation: Tensor

    def __init__(self, dimension: int, classes: int, config: AdaFaceLoss) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension).uniform_(-1, 1))
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_deviation", torch.tensor(100.0))
        self._config = config

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss: a scalar."""
        config = self._config
        norms = embeddings.detach().float().norm(dim=1).clamp(0.001, 100)
        if self.training:
            mean, deviation = _mean_and_deviation(norms)
            self.norm_mean.lerp_(mean, config.momentum)
            self.norm_deviation.lerp_(deviation, config.momentum)
        quality = config.h * (norms - self.norm_mean) / (self.norm_deviation + 1e-3)
        logits = adaface_logits(
            cosine_logits(embeddings, self.weight),
            labels,
            quality.clamp(-1, 1),
            scale=config.scale,
            margin=config.margin,
        )
        return F.cross_entropy(logits, labels)


class CenterHead(nn.Module):
    """Center loss. The centres are no parameters: after each batch, of all ranks, they move by their own rule."""

    centers: Tensor

    def __init__(self, dimension: int, classes: int, alpha: float) -> None:
        super().__init__()
        self.register_buffer("centers", torch.zeros(classes, dimension))
        self._alpha = alpha

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss: a scalar."""
        loss = center_loss(embeddings.float(), labels, self.centers)
        if self.training:
            rows = gather_rows(embeddings.detach().float())
            self.centers.copy_(moved_centers(rows, gather_rows(labels), self.centers, alpha=self._alpha))
        return loss


class PairHead(nn.Module):
    """A loss over pairs, taken over the rows of all ranks."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], *, normalise: bool) -> None:
        super().__init__()
        self._loss = loss
        self._normalise = normalise

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss: a scalar."""
        rows = gather_rows(embeddings.float())
        return self._loss(F.normalize(rows) if self._normalise else rows, gather_rows(labels))


def build_head(
    config: LossConfig, dimension: int, classes: int, *, seed: int = 0, device: torch.device | None = None
) -> nn.Module:
    """The module for one entry of `losses`, with fresh weights from torch's global generator.

    `seed` and `device` are for the shards of PartialFC, which differ between ranks and cannot be moved later.
    """
    match config:
        case SoftmaxLoss():
            return LinearHead(dimension, classes, config.smoothing)
        case ArcFaceLoss() | CosFaceLoss() | CircleLoss():
            return CosineHead(dimension, classes, _logits_of(config))
        case AdaFaceLoss():
            return AdaFaceHead(dimension, classes, config)
        case PartsLoss():
            if dimension % config.parts:
                raise ConfigError(f"losses: pcb with {config.parts} parts does not divide an embedding of {dimension}")
            return PartsHead(dimension, classes, config.parts, config.smoothing)
        case PartialFCLoss():
            return PartialFC(
                dimension,
                classes,
                rate=config.rate,
                scale=config.scale,
                margins=config.margins,
                gradient=config.gradient,
                seed=seed,
                device=device,
            )
        case CenterLoss():
            return CenterHead(dimension, classes, config.alpha)
        case CirclePairLoss():
            return PairHead(partial(circle_pair_loss, margin=config.margin, scale=config.scale), normalise=False)
        case TripletLoss():
            margin = None if config.margin == "soft" else config.margin
            return PairHead(partial(triplet_loss, margin=margin, mining=config.mining), normalise=config.normalise)


def _logits_of(config: ArcFaceLoss | CosFaceLoss | CircleLoss) -> Callable[[Tensor, Tensor], Tensor]:
    """The function from cosines [N, C] and labels [N] to logits [N, C] that a loss names."""
    match config:
        case ArcFaceLoss():
            m1, m2, m3 = config.margins
            return partial(
                margin_logits,
                scale=config.scale,
                m1=m1,
                m2=m2,
                m3=m3,
                gradient=config.gradient,
                filter_above=config.filter_above,
            )
        case CosFaceLoss():
            return partial(margin_logits, scale=config.scale, m2=0.0, m3=config.margin)
        case CircleLoss():
            return partial(circle_logits, scale=config.scale, margin=config.margin)


def _mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation over the values of all ranks."""
    wide = values.double()  # before the sums: the variance is a small difference of large ones
    sums = torch.stack([torch.ones_like(wide).sum(), wide.sum(), wide.square().sum()])
    count, total, squares = all_reduce_sum(sums)
    mean = total / count
    variance = (squares - count * mean * mean).clamp(min=0) / (count - 1).clamp(min=1)
    return mean.float(), variance.sqrt().float()
