"""The losses of a configuration, one section per kind; formulas and papers are in the modules of `losses/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .choices import ClassScores, MarginGradient, Mining, Weighting
from .section import Count, NotNegative, Positive, Section, Share

__all__ = [
    "AdaFaceLoss",
    "ArcFaceLoss",
    "CenterLoss",
    "CircleLoss",
    "CirclePairLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "LossConfig",
    "MultiSimilarityLoss",
    "OcclusionLoss",
    "PartialFCLoss",
    "PartsLoss",
    "QAConvLoss",
    "SoftmaxLoss",
    "TripletLoss",
]


class SoftmaxLoss(Section):
    """Cross-entropy of a linear classifier."""

    kind: Literal["softmax"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    smoothing: Share = 0.1
    """Label smoothing."""
    neck: bool = False
    """BatchNorm in front of the classifier (BNNeck, arXiv:1903.07071); other losses see the embedding before it."""


class ArcFaceLoss(Section):
    """Combined-margin softmax (ArcFace, arXiv:1801.07698): s (cos(m1 t + m2) - m3)."""

    kind: Literal["arcface"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margins: tuple[Positive, NotNegative, NotNegative] = (1.0, 0.5, 0.0)
    """m1, m2, m3."""
    gradient: MarginGradient = "exact"
    """exact, or straight_through as arcface_torch trains."""
    filter_above: Annotated[float, Field(gt=-1)] | None = None
    """Set cosines of other classes above this value to zero; null leaves them."""


class CosFaceLoss(Section):
    """Additive cosine margin (CosFace, arXiv:1801.09414; AM-softmax is scale 30, margin 0.35): s (cos t - m)."""

    kind: Literal["cosface"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: NotNegative = 0.4
    """m."""


class AdaFaceLoss(Section):
    """Margin that follows image quality (AdaFace, arXiv:2204.00964)."""

    kind: Literal["adaface"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: NotNegative = 0.4
    """m."""
    h: NotNegative = 0.333
    """Factor of the quality measure, the deviation of an embedding's norm from the mean norm; 0 gives all images one
    margin."""
    momentum: Share = 0.01
    """Share by which the norm statistics move towards those of each batch."""


class CircleLoss(Section):
    """Circle loss, class form (arXiv:2002.10857)."""

    kind: Literal["circle"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: Share = 0.35
    """m."""


class CirclePairLoss(Section):
    """Circle loss over the pairs of a batch (arXiv:2002.10857)."""

    kind: Literal["circle_pair"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """Gamma."""
    margin: Share = 0.25
    """m."""


class CenterLoss(Section):
    """Half the squared distance to the class centre (Wen et al., ECCV 2016)."""

    kind: Literal["center"]
    weight: Positive = 5e-4
    """Factor in the sum of losses."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share by which the centres of a batch's classes move towards their embeddings per step."""


class TripletLoss(Section):
    """Batch-hard triplet loss (arXiv:1703.07737)."""

    kind: Literal["triplet"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    margin: Literal["soft"] | NotNegative = 0.3
    """m, or "soft" for log(1 + exp(d_ap - d_an))."""
    mining: Mining = "hard"
    """hard: the hardest positive and negative; weighted: softmax-weighted averages."""
    normalise: bool = True
    """Distances of unit embeddings instead of raw ones."""


class MultiSimilarityLoss(Section):
    """Multi-similarity loss with its mining of pairs (arXiv:1904.06627)."""

    kind: Literal["multi_similarity"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    alpha: Positive = 2.0
    """Sharpness of the positive pairs."""
    beta: Positive = 50.0
    """Sharpness of the negative pairs."""
    base: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Lambda, the cosine around which pairs are weighted."""
    epsilon: NotNegative = 0.1
    """How far beyond the hardest pair of the other kind a pair is still mined."""


class ContrastiveLoss(Section):
    """Contrastive loss (Hadsell et al., CVPR 2006): half the squared distances of positive pairs, half the squared lack
    of distance of negative ones.
    """

    kind: Literal["contrastive"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    margin: Positive = 1.0
    """Distance from which negative pairs cost nothing; unit embeddings are at most 2 apart."""
    normalise: bool = True
    """Distances of unit embeddings instead of raw ones."""


class PartsLoss(Section):
    """Mean cross-entropy of one linear classifier per part of the embedding (PCB, arXiv:1711.09349)."""

    kind: Literal["pcb"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    parts: Count = 6
    """Equal slices of the embedding."""
    global_dim: Annotated[int, Field(ge=0)] = 0
    """Length of one more slice behind them, such as that of a global branch; 0: none."""
    smoothing: Share = 0.0
    """Label smoothing."""


class PartialFCLoss(Section):
    """Combined-margin softmax, classes sharded over processes and sampled (arXiv:2203.15565)."""

    kind: Literal["partial_fc"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margins: tuple[Positive, NotNegative, NotNegative] = (1.0, 0.5, 0.0)
    """m1, m2, m3."""
    gradient: MarginGradient = "exact"
    """exact, or straight_through as arcface_torch trains."""
    rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each process's classes that each step uses; the optimizer updates these alone."""


class QAConvLoss(Section):
    """Local matching of feature maps (QAConv, arXiv:1904.10424, arXiv:2104.01546); needs several images per person."""

    kind: Literal["qaconv"]
    weight: Positive = 0.7
    """Factor in the sum of losses."""
    pairwise: NotNegative = 1.0
    """Factor of the cross-entropy of all pairs of a batch."""
    triplet: NotNegative = 0.5
    """Factor of the triplet loss over scores."""
    margin: NotNegative = 1.0
    """Margin of the triplet loss, in units of scores, which are logits."""
    classes: ClassScores = "none"
    """Scores against a map per class. none: only images of the batch are compared; embedding: learned maps; memory: the
    last map of each class. `data.sampler: graph` serves large sets better."""
    class_weight: Positive = 1.0
    """Factor of the loss over classes."""
    neighbours: Count = 32
    """Nearest classes that an image is compared with, beside its own."""
    memory_gb: Positive = 4.0
    """Gigabytes (1e9 bytes) that the maps of classes may take, with gradients and optimizer states."""
    visibility: Weighting = "scaling"
    """What the loss occlusion says is hidden: scaling: scales similarity; mask: leaves it out, and weighs the rest by
    visibility; none: the matcher is not told."""
    visibility_learns: bool = False
    """Let this loss train the visibility head too."""
    train_map: bool = True
    """Let this loss train the backbone."""


class OcclusionLoss(Section):
    """A head that learns which places of the feature map show the face, from masks whose place is known."""

    kind: Literal["occlusion"]
    weight: Positive = 0.3
    """Factor in the sum of losses."""
    hidden: Count = 128
    """Channels of the head."""
    train_map: bool = False
    """Let this loss train the backbone."""
    loss: Literal["mse", "bce"] = "mse"
    """Squared error of the visibility, or binary cross-entropy."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs in which the head learns before the loss qaconv uses what it says."""


LossConfig = Annotated[
    SoftmaxLoss
    | ArcFaceLoss
    | CosFaceLoss
    | AdaFaceLoss
    | CircleLoss
    | CirclePairLoss
    | CenterLoss
    | TripletLoss
    | MultiSimilarityLoss
    | ContrastiveLoss
    | PartsLoss
    | PartialFCLoss
    | QAConvLoss
    | OcclusionLoss,
    Field(discriminator="kind"),
]
