"""Mean and variance per channel over a stream of activations, in float64, and how far the mean can be trusted.

Welford's running moments in the form that merges whole batches: Chan, Golub, LeVeque, "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances", 1979, equations 2.1. Stable where sums of squares cancel.

Positions of one image resemble each other, so a map of 64 x 32 is far from 2048 observations. What is independent is
images: the standard error of the mean is the spread of the images' own means over the root of their number, as for
any sample drawn in clusters (Cochran, "Sampling Techniques", 3rd ed., 1977, chapter 9).
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
        """Nothing seen yet."""
        return cls(0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Take in `count` observations with these moments [C]."""
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.count = total

    def merged(self, later: Moments) -> Moments:
        """The moments of both; neither is changed."""
        both = replace(self)
        both.merge(later.count, later.mean, later.squares)
        return both


@dataclass
class ChannelStatistics:
    """Moments over all positions of all images, and over the images' own means."""

    positions: Moments
    images: Moments

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        """Nothing seen yet."""
        return cls(Moments.empty(channels), Moments.empty(channels))

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, float64 [C]."""
        return self.positions.mean

    @property
    def squares(self) -> Tensor:
        """Sum of squared deviations of each channel, float64 [C]; 0 where it never varied."""
        return self.positions.squares

    @property
    def variance(self) -> Tensor:
        """Biased variance, as BatchNorm normalises with; zeros before anything was seen."""
        return self.positions.squares / max(self.positions.count, 1)

    @property
    def uncertainty(self) -> float:
        """Standard error of the mean in standard deviations: root mean square over the channels that vary."""
        images, alive = self.images, self.variance > 0
        if images.count < 2 or not bool(alive.any()):
            return float("inf") if images.count < 2 else 0.0
        error = images.squares / (images.count - 1) / images.count
        return float((error[alive] / self.variance[alive]).mean().sqrt())

    def merged(self, later: ChannelStatistics) -> ChannelStatistics:
        """The statistics of both; neither is changed."""
        return ChannelStatistics(self.positions.merged(later.positions), self.images.merged(later.images))

    @torch.no_grad()
    def update(self, activations: Tensor) -> None:
        """Take in activations [N, C, ...] of any float type and device."""
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
