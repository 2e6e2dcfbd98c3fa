"""The arithmetic of a graph that normalises its own pixels, `(x - mean) / std`, in one or two nodes.

1. A step is an Add, Sub, Mul or Div of the image with one constant per channel, or one for all.
2. Two steps count where one adds and the other multiplies.
3. The resulting factor 1 / std is positive for every channel, and there are 1 or 3 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .preprocessing import Preprocessing
from .preprocessing_guess import FoundPreprocessing

__all__ = ["SCALING_OPERATORS", "ScalingStep", "mean_and_std", "preprocessing_outside", "scaling_step"]

SCALING_OPERATORS = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class ScalingStep:
    """One node between the pixels and the network."""

    adds: bool
    numbers: NDArray[np.float64]
    """One float64 value per channel: what is added, or the factor."""


def scaling_step(operator: str, constant: NDArray[Any], channels: int, *, constant_first: bool) -> ScalingStep | None:
    """The step that `operator` takes with a constant; None where it is none of rule 1."""
    if operator not in SCALING_OPERATORS or (constant_first and operator in ("Sub", "Div")):
        return None
    per_channel = constant.size == 1 or (constant.size == channels and constant.shape[-2:] == (1, 1))
    if constant.dtype.kind != "f" or not per_channel:
        return None
    numbers = np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))
    if operator == "Sub":
        numbers = -numbers
    elif operator == "Div":
        if not numbers.all():
            return None
        numbers = 1.0 / numbers
    return ScalingStep(operator in ("Add", "Sub"), numbers)


def mean_and_std(steps: Sequence[ScalingStep], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel of `(x - mean) / std`, which the steps compute; None by rule 3."""
    if not steps or channels not in (1, 3):
        return None
    scale, shift = np.ones(channels), np.zeros(channels)
    for step in steps:
        if step.adds:
            shift = shift + step.numbers
        else:
            scale, shift = scale * step.numbers, shift * step.numbers
    if not np.isfinite(scale).all() or (scale <= 0).any():
        return None
    return tuple((-shift / scale).tolist()), tuple((1.0 / scale).tolist())


def preprocessing_outside(mean: Sequence[float], std: Sequence[float], height: int, width: int) -> FoundPreprocessing:
    """What remains outside such a graph: resizing to `height` x `width` pixels, mean 0, standard deviation 1."""
    channels = len(mean)
    order = "grey" if channels == 1 else "rgb"
    outside = Preprocessing(height, width, (0.0,) * channels, (1.0,) * channels, order)  # type: ignore[arg-type]
    inside = f"mean {[round(v, 4) for v in mean]}, std {[round(v, 4) for v in std]}"
    return FoundPreprocessing(outside, f"the graph normalises raw pixels itself: {inside}")
