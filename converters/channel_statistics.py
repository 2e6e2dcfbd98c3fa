"""Mean and variance per channel over a stream of activations, in float64.

Welford's running moments in the form that merges whole batches: Chan, Golub, LeVeque, "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances", 1979, equations 2.1. Stable where sums of squares cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ChannelStatistics"]


@dataclass
class ChannelStatistics:
    """Count, mean and sum of squared deviations of each channel; `mean` and `squares` are float64 [C]."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        """Nothing seen yet."""
        return cls(0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """Biased variance, as BatchNorm normalises with; zeros before anything was seen."""
        return self.squares / max(self.count, 1)

    @torch.no_grad()
    def update(self, activations: Tensor) -> None:
        """Take in activations [N, C, ...] of any float type and device."""
        axes = [axis for axis in range(activations.ndim) if axis != 1]
        count = activations.numel() // activations.shape[1]
        if count == 0:
            return
        variance, mean = torch.var_mean(activations.double(), axes, correction=0)
        variance, mean = variance.cpu(), mean.cpu()
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + variance * count + delta.square() * (self.count * count / total)
        self.count = total
