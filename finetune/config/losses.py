"""The losses of a configuration, one section a kind; formulas are where the losses are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .choices import MarginGradient, Mining
from .section import Count, NotNegative, Positive, Section, Share

__all__ = [
    "AdaFaceLoss",
    "ArcFaceLoss",
    "CenterLoss",
    "CircleLoss",
    "CirclePairLoss",
    "CosFaceLoss",
    "LossConfig",
    "PartialFCLoss",
    "PartsLoss",
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


class ArcFaceLoss(Section):
    """Combined-margin softmax: s (cos(m1 t + m2) - m3)."""

    kind: Literal["arcface"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margins: tuple[Positive, NotNegative, NotNegative] = (1.0, 0.5, 0.0)
    """m1, m2, m3."""
    gradient: MarginGradient = "exact"
    """exact, or straight_through as arcface_torch trains."""
    filter_above: float | None = None
    """Zero cosines of other classes above this value."""


class CosFaceLoss(Section):
    """Additive cosine margin (CosFace; AM-softmax is scale 30, margin 0.35): s (cos t - m)."""

    kind: Literal["cosface"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: NotNegative = 0.4
    """m."""


class AdaFaceLoss(Section):
    """Margin that follows image quality."""

    kind: Literal["adaface"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: NotNegative = 0.4
    """m."""
    h: Positive = 0.333
    """Concentration of the quality measure."""
    momentum: Share = 0.01
    """How far norm statistics move towards a batch's."""


class CircleLoss(Section):
    """Circle loss, class form."""

    kind: Literal["circle"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: Share = 0.35
    """m."""


class CirclePairLoss(Section):
    """Circle loss over the pairs of a batch."""

    kind: Literal["circle_pair"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """Gamma."""
    margin: Share = 0.25
    """m."""


class CenterLoss(Section):
    """Half the squared distance to the class centre."""

    kind: Literal["center"]
    weight: Positive = 5e-4
    """Factor in the sum of losses."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How far the centres of a batch's classes move towards their rows, a step."""


class TripletLoss(Section):
    """Batch-hard triplet loss."""

    kind: Literal["triplet"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    margin: Literal["soft"] | NotNegative = 0.3
    """m, or "soft" for log(1 + exp(d_ap - d_an))."""
    mining: Mining = "hard"
    """hard: the hardest positive and negative; weighted: softmax-weighted averages."""
    normalise: bool = True
    """Distances of unit embeddings instead of raw ones."""


class PartsLoss(Section):
    """Cross-entropy of one linear classifier a part of the embedding, averaged over the parts, as PCB trains."""

    kind: Literal["pcb"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    parts: Count = 6
    """Equal slices of the embedding."""
    smoothing: Share = 0.0
    """Label smoothing."""


class PartialFCLoss(Section):
    """Combined-margin softmax with classes sharded over processes and sampled; its rows are updated by SGD."""

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
    """Share of each process's classes that a step uses."""


LossConfig = Annotated[
    SoftmaxLoss
    | ArcFaceLoss
    | CosFaceLoss
    | AdaFaceLoss
    | CircleLoss
    | CirclePairLoss
    | CenterLoss
    | TripletLoss
    | PartsLoss
    | PartialFCLoss,
    Field(discriminator="kind"),
]
