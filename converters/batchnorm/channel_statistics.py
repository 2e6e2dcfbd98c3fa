"""Running mean and variance per channel over a stream of activations, in float64, and the standard error of the mean.

The moments merge whole batches: Chan, Golub, LeVeque: "Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances", 1979, equations 2.1. They stay accurate where a sum of squares would cancel.

The positions of one image are correlated, so a map of 64 x 32 is worth far less than 2048 observations; only the images
are independent. The standard error of the mean is therefore the standard deviation of the means per image, divided by
the square root of the number of images, as for cluster samples (Cochran: "Sampling Techniques", 3rd ed., 1977,
chapter 9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["ChannelStatistics", "Moments"]


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of each channel; `mean` and `squares` are float64 [C]."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, channels: int) -> Moments:
        """Moments of no observations."""
        return cls(0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Add `count` observations with this mean and this sum of squared deviations, each [C]."""
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.count = total

    def merged(self, later: Moments) -> Moments:
        """The moments of both together; neither is changed."""
        both = replace(self)
        both.merge(later.count, later.mean, later.squares)
        return both


@dataclass
class ChannelStatistics:
    """Moments over all positions of all images, and over the means per image."""

    positions: Moments
    images: Moments

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        """Statistics of no activations."""
        return cls(Moments.empty(channels), Moments.empty(channels))

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, float64 [C]."""
        return self.positions.mean

    @property
    def squares(self) -> Tensor:
        """Sum of squared deviations of each channel, float64 [C]; 0 for a channel that never varied."""
        return self.positions.squares

    @property
    def variance(self) -> Tensor:
        """Biased variance of each channel, float64 [C], as BatchNorm normalises with; zeros before the first update."""
        return self.positions.squares / max(self.positions.count, 1)

    @property
    def uncertainty(self) -> float:
        """Standard error of the mean in standard deviations, as root mean square over the channels that vary."""
        images, alive = self.images, self.variance > 0
        if images.count < 2 or not bool(alive.any()):
            return float("inf") if images.count < 2 else 0.0
        error = images.squares / (images.count - 1) / images.count
        return float((error[alive] / self.variance[alive]).mean().sqrt())

    def merged(self, later: ChannelStatistics) -> ChannelStatistics:
        """The statistics of both together; neither is changed."""
        return ChannelStatistics(self.positions.merged(later.positions), self.images.merged(later.images))

    @torch.no_grad()
    def update(self, activations: Tensor) -> None:
        """Add activations [N, C, ...] of any float dtype and device."""
        count = activations.numel() // activations.shape[1]
        if count == 0:
            return
        number = activations.shape[0]
        rows = activations.double().reshape(*activations.shape[:2], -1)  # [N, C, positions]
        spread, means = torch.var_mean(rows, 2, correction=0)
        between, mean = torch.var_mean(means, 0, correction=0)
        within, between, mean = (t.cpu() for t in (spread.mean(0), between, mean))
        self.positions.merge(count, mean, (within + between) * count)
        self.images.merge(number, mean, between * number)
