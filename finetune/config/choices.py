"""Choices that a configuration and a loss function share, so that reading a configuration does not import torch."""

from __future__ import annotations

from typing import Literal

__all__ = ["ClassScores", "MarginGradient", "MaskKind", "Mining", "Score", "Weighting"]

MarginGradient = Literal["straight_through", "exact"]

Mining = Literal["hard", "weighted"]

MaskKind = Literal["medical", "sunglasses", "scarf", "hand", "block"]

Score = Literal["embedding", "matcher", "combined"]

Weighting = Literal["scaling", "mask", "none"]

ClassScores = Literal["none", "embedding", "memory"]
