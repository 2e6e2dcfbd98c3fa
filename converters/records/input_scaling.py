"""The arithmetic of a graph that normalises its own pixels, `(x - mean) / std`, in one node or several in a row.

1. A step is an Add, Sub, Mul or Div of the image with one constant per channel, one for all, or (Add, Sub) one per
   pixel, of which the average per channel counts: a mean image.
2. The resulting factor 1 / std is not 0 and has one sign in all channels, and there are 1 or 3 of them. A negative
   one, as of (127.5 - x) / 128, is that of inverted pixels.
3. The range of x follows from the numbers. Pixels of 0..255 have a mean of 1 or more or a deviation above 16; pixels of
   0..1 have a mean between 0 and 1 and a deviation of at most 1. Other numbers are not a normalisation of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SCALING_OPERATORS",
    "InputScaling",
    "ScalingStep",
    "mean_and_std",
    "pixel_range",
    "scaling_steps",
    "statistics_range",
]

SCALING_OPERATORS = ("Add", "Sub", "Mul", "Div")
"""Operators that may be a step."""
_LEAST_MEAN = 1.0
"""The mean, in every channel, from which on x is in 0..255: that of pixels of 0..1 is below it."""
_LARGEST_UNIT_STD = 0.35
"""The deviation up to which a running deviation is one of pixels of 0..1."""
_LEAST_STD = 16.0
"""So is the deviation: normalised images span at most 255 / 16 units."""


@dataclass(frozen=True)
class InputScaling:
    """`(x - mean) / std` per channel, computed by a graph itself, in the order of the channels of its input."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    operators: tuple[str, ...]
    range: int
    """The largest pixel that the graph expects: 255 or 1."""

    def __str__(self) -> str:
        """Operators, mean and deviation in words."""
        mean, std = ([round(value, 4) for value in values] for values in (self.mean, self.std))
        return f"{', '.join(self.operators)}: mean {mean}, std {std}"


@dataclass(frozen=True)
class ScalingStep:
    """One node between the pixels and the network."""

    adds: bool
    numbers: NDArray[np.float64]
    """One float64 value per channel: what is added, or the factor."""


def scaling_steps(
    operator: str, constant: NDArray[Any], channels: int, *, constant_first: bool, channel_axis: int = 1
) -> tuple[ScalingStep, ...]:
    """The steps that `operator` takes with a constant on an image of 4 axes; none where it is none of rule 1."""
    if operator not in SCALING_OPERATORS or (constant_first and operator == "Div"):
        return ()
    numbers = _per_channel(constant, channels, channel_axis, averaged=operator in ("Add", "Sub"))
    if constant.dtype.kind != "f" or numbers is None:
        return ()
    if operator == "Sub" and constant_first:
        return ScalingStep(False, np.full(channels, -1.0)), ScalingStep(True, numbers)
    if operator == "Sub":
        numbers = -numbers
    elif operator == "Div":
        if not numbers.all():
            return ()
        numbers = 1.0 / numbers
    return (ScalingStep(operator in ("Add", "Sub"), numbers),)


def _per_channel(constant: NDArray[Any], channels: int, axis: int, *, averaged: bool) -> NDArray[np.float64] | None:
    """One number per channel of a constant that is broadcast over images [N, C, H, W], or [N, H, W, C] with axis 3."""
    if constant.size == 1:
        return np.full(channels, float(constant.reshape(-1)[0]))
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if len(shape) != 4 or shape[0] != 1 or shape[axis] not in (1, channels):
        return None
    if constant.size != shape[axis] and not averaged:
        return None
    others = tuple(place for place in range(4) if place != axis)
    return np.broadcast_to(constant.reshape(shape).astype(np.float64).mean(axis=others), (channels,))


def mean_and_std(steps: Sequence[ScalingStep], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel of `(x - mean) / std`, which the steps compute; None by rule 2."""
    if not steps or channels not in (1, 3):
        return None
    scale, shift = np.ones(channels), np.zeros(channels)
    for step in steps:
        if step.adds:
            shift = shift + step.numbers
        else:
            scale, shift = scale * step.numbers, shift * step.numbers
    if not np.isfinite(scale).all() or not np.isfinite(shift).all():
        return None
    if not (scale > 0).all() and not (scale < 0).all():
        return None
    return tuple((0.0 - shift / scale).tolist()), tuple((1.0 / scale).tolist())


def statistics_range(mean: Sequence[float], std: Sequence[float]) -> int | None:
    """The largest pixel of images that have this mean and deviation: 255, 1, or None where they are not pixels.

    Numbers in 0..M have a variance of at most mean * (M - mean) (Bhatia and Davis, 2000), and images of 0..1 have
    deviations around .25, which those normalised to -1..1 exceed.
    """
    for limit in (255, 1):
        fits = all(0 < m < limit and s * s <= m * (limit - m) for m, s in zip(mean, std, strict=True))
        if fits and (min(mean) >= _LEAST_MEAN if limit == 255 else max(std) <= _LARGEST_UNIT_STD):
            return limit
    return None


def pixel_range(mean: Sequence[float], std: Sequence[float]) -> int | None:
    """The largest pixel that `(x - mean) / std` is meant for: 255, 1, or None by rule 3."""
    spread = [abs(value) for value in std]
    if min(mean) >= -1 and max(mean) <= 256 and (min(mean) >= _LEAST_MEAN or min(spread) > _LEAST_STD):
        return 255
    if min(mean) > 0 and max(mean) < 1 and max(spread) <= 1:
        return 1
    return None
