"""The heads of a run: modules that turn embeddings [N, D] and int64 labels [N] into one loss, a float32 scalar.

Training adds up their weighted losses. A head owns class weights (parameters) or centres (buffers), or nothing where
the loss compares the images of a batch with each other. The formulas are pure functions in `softmax_losses`,
`margin_losses` and `pair_losses`; here are the parameters, and what is exchanged between ranks. Logits and losses are
computed in float32, also under autocast.
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
    ContrastiveLoss,
    CosFaceLoss,
    LossConfig,
    MultiSimilarityLoss,
    OcclusionLoss,
    OptimizerConfig,
    PartialFCLoss,
    PartsLoss,
    QAConvLoss,
    SoftmaxLoss,
    TripletLoss,
)
from ..processes.collectives import all_reduce_sum, gather_rows
from .margin_losses import adaface_logits, circle_logits, cosine_logits, margin_logits
from .pair_losses import (
    center_loss,
    circle_pair_loss,
    contrastive_loss,
    moved_centers,
    multi_similarity_loss,
    triplet_loss,
)
from .partial_fc import PartialFC
from .softmax_losses import parts_loss, softmax_loss

__all__ = ["AdaFaceHead", "CenterHead", "CosineHead", "LinearHead", "PairHead", "PartsHead", "build_head"]

_DEFAULT_OPTIMIZER = OptimizerConfig()


class LinearHead(nn.Module):
    """Softmax cross-entropy of a linear classifier with weight [C, D] and bias [C], with label smoothing.

    Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567.
    `neck` puts a BatchNorm, of each process's own batch, in front of the classifier: Luo et al., "Bag of Tricks and A
    Strong Baseline for Deep Person Re-identification", arXiv:1903.07071; the losses beside it see what comes before.
    """

    def __init__(self, dimension: int, classes: int, smoothing: float, *, neck: bool = False) -> None:
        super().__init__()
        self.neck = nn.BatchNorm1d(dimension) if neck else None
        self.weight = nn.Parameter(torch.empty(classes, dimension).normal_(0, 0.001))
        self.bias = nn.Parameter(torch.zeros(classes))
        self._smoothing = smoothing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over embeddings [N, D] with int64 labels [N]: a float32 scalar."""
        return softmax_loss(self.logits(embeddings), labels, smoothing=self._smoothing)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits float32 [N, C] of embeddings [N, D]."""
        rows = embeddings.float()
        return F.linear(rows if self.neck is None else self.neck(rows), self.weight, self.bias)


class PartsHead(nn.Module):
    """One linear classifier per slice of the embedding; the loss is the mean of their cross-entropies.

    The slices are `parts` equal ones, and one more of `global_dim` numbers where that is not 0.

    Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling" (PCB), arXiv:1711.09349.
    """

    def __init__(self, dimension: int, classes: int, parts: int, smoothing: float, *, global_dim: int = 0) -> None:
        super().__init__()
        self._lengths = [(dimension - global_dim) // parts] * parts + ([global_dim] if global_dim else [])
        self.classifiers = nn.ModuleList(LinearHead(length, classes, smoothing) for length in self._lengths)
        self._smoothing = smoothing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over embeddings [N, D] with int64 labels [N]: a float32 scalar."""
        return parts_loss(self.logits(embeddings), labels, smoothing=self._smoothing)

    def logits(self, embeddings: Tensor) -> list[Tensor]:
        """Logits float32 [N, C] of each slice of embeddings [N, D]."""
        slices = torch.split(embeddings, self._lengths, dim=1)
        classifiers = cast("list[LinearHead]", list(self.classifiers))
        return [classifier.logits(part) for classifier, part in zip(classifiers, slices, strict=True)]


class CosineHead(nn.Module):
    """Softmax cross-entropy over logits that a function makes of the cosines to class weights [C, D].

    With the functions of `margin_losses`: ArcFace, CosFace and AM-softmax, and circle loss in class form.
    """

    def __init__(self, dimension: int, classes: int, logits: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension).normal_(0, 0.01))
        self._logits = logits

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over embeddings [N, D] with int64 labels [N]: a float32 scalar."""
        return F.cross_entropy(self._logits(cosine_logits(embeddings, self.weight), labels), labels)


class AdaFaceHead(nn.Module):
    """AdaFace: the margin follows image quality, measured by the embedding's norm against running statistics.

    Kim, Jain and Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", arXiv:2204.00964. The norms are clamped
    to 0.001..100. In training mode, mean and standard deviation of the norms in the batch of all ranks move the running
    ones by the share `momentum` before they are used; these start at 20 and 100.
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
        """The mean loss over embeddings [N, D] with int64 labels [N]: a float32 scalar."""
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
    """Center loss with centres [C, D], which start at zero and are not parameters.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016. After each forward
    pass in training mode the centres of the classes in the batch of all ranks move by `moved_centers`.
    """

    centers: Tensor

    def __init__(self, dimension: int, classes: int, alpha: float) -> None:
        super().__init__()
        self.register_buffer("centers", torch.zeros(classes, dimension))
        self._alpha = alpha

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over embeddings [N, D] with int64 labels [N]: a float32 scalar."""
        loss = center_loss(embeddings.float(), labels, self.centers)
        if self.training:
            rows = gather_rows(embeddings.detach().float())
            self.centers.copy_(moved_centers(rows, gather_rows(labels), self.centers, alpha=self._alpha))
        return loss


class PairHead(nn.Module):
    """A loss over the pairs of images in the batch of all ranks, of raw or of normalised embeddings."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], *, normalise: bool) -> None:
        super().__init__()
        self._loss = loss
        self._normalise = normalise

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over embeddings [N, D] with int64 labels [N]: a float32 scalar."""
        rows = gather_rows(embeddings.float())
        return self._loss(F.normalize(rows) if self._normalise else rows, gather_rows(labels))


def build_head(
    config: LossConfig,
    dimension: int,
    classes: int,
    *,
    optimizer: OptimizerConfig = _DEFAULT_OPTIMIZER,
    seed: int = 0,
    device: torch.device | None = None,
) -> nn.Module:
    """The module for one entry of `losses`, with fresh weights from torch's global generator.

    Args:
        config: One entry of `losses`.
        dimension: D, the length of the embedding.
        classes: C, the number of identities in the training data.
        optimizer: How PartialFC updates its rows.
        seed: Seeds the shards of PartialFC, which differ between ranks.
        device: Where PartialFC keeps its shard, which cannot be moved later; other heads are made on the CPU.

    Raises:
        ConfigError: the parts of a `pcb` loss do not divide the embedding.
    """
    match config:
        case SoftmaxLoss():
            return LinearHead(dimension, classes, config.smoothing, neck=config.neck)
        case ArcFaceLoss() | CosFaceLoss() | CircleLoss():
            return CosineHead(dimension, classes, _logits_of(config))
        case AdaFaceLoss():
            return AdaFaceHead(dimension, classes, config)
        case PartsLoss():
            shared = dimension - config.global_dim
            if shared < config.parts or shared % config.parts:
                less = f" less {config.global_dim} of the global branch" if config.global_dim else ""
                raise ConfigError(
                    f"losses: pcb with {config.parts} parts does not divide an embedding of {dimension}{less}"
                )
            return PartsHead(dimension, classes, config.parts, config.smoothing, global_dim=config.global_dim)
        case PartialFCLoss():
            return PartialFC(
                dimension,
                classes,
                rate=config.rate,
                scale=config.scale,
                margins=config.margins,
                gradient=config.gradient,
                optimizer=optimizer,
                seed=seed,
                device=device,
            )
        case CenterLoss():
            return CenterHead(dimension, classes, config.alpha)
        case CirclePairLoss() | TripletLoss() | MultiSimilarityLoss() | ContrastiveLoss():
            return _pair_head(config)
        case QAConvLoss() | OcclusionLoss():
            raise ValueError(f"{config.kind} sees a feature map; `matching.map_heads` has its head")


def _pair_head(config: CirclePairLoss | TripletLoss | MultiSimilarityLoss | ContrastiveLoss) -> PairHead:
    match config:
        case CirclePairLoss():
            return PairHead(partial(circle_pair_loss, margin=config.margin, scale=config.scale), normalise=False)
        case TripletLoss():
            margin = None if config.margin == "soft" else config.margin
            return PairHead(partial(triplet_loss, margin=margin, mining=config.mining), normalise=config.normalise)
        case MultiSimilarityLoss():
            settings = {name: getattr(config, name) for name in ("alpha", "beta", "base", "epsilon")}
            return PairHead(partial(multi_similarity_loss, **settings), normalise=False)
        case ContrastiveLoss():
            return PairHead(partial(contrastive_loss, margin=config.margin), normalise=config.normalise)


def _logits_of(config: ArcFaceLoss | CosFaceLoss | CircleLoss) -> Callable[[Tensor, Tensor], Tensor]:
    """The function from cosines [N, C] and labels [N] to logits [N, C] of a loss with one weight vector per class."""
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
    """Mean and unbiased standard deviation of values [n] over all ranks, float32 scalars."""
    wide = values.double()  # before the sums: the variance is a small difference of large ones
    sums = torch.stack([torch.ones_like(wide).sum(), wide.sum(), wide.square().sum()])
    count, total, squares = all_reduce_sum(sums)
    mean = total / count
    variance = (squares - count * mean * mean).clamp(min=0) / (count - 1).clamp(min=1)
    return mean.float(), variance.sqrt().float()
