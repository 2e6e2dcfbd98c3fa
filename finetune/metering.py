"""Sums over the steps since the last report: losses, images, seconds, and seconds spent waiting for data."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Add steps, read means, reset."""

    def __init__(self, losses: int) -> None:
        self._count = losses
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._losses = torch.zeros(self._count)
        self.steps = 0
        self.images = 0
        self.waited = 0.0
        self.seconds = 0.0

    def add(self, losses: Tensor, images: int, waited: float, seconds: float) -> None:
        """One step: its losses [H], images of all ranks, seconds waited for data and seconds in all."""
        self._losses += losses.cpu()
        self.steps += 1
        self.images += images
        self.waited += waited
        self.seconds += seconds

    @property
    def mean_losses(self) -> Tensor:
        """Mean losses [H] of this process."""
        return self._losses / max(self.steps, 1)

    @property
    def images_per_second(self) -> float:
        """Of all ranks."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0
