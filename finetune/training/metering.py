"""Sums over the steps since the last report: losses, images, seconds, and seconds spent waiting for data."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Add steps, read means, reset. Losses stay on their device: fetching them at every step would block."""

    def __init__(self, losses: int, device: torch.device) -> None:
        self._empty = torch.zeros(losses, device=device)
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self._losses = self._empty.clone()
        self._succeeded = 0
        self.steps = 0
        self.images = 0
        self.waited = 0.0
        self.seconds = 0.0

    def add(self, losses: Tensor, images: int, waited: float, seconds: float, *, succeeded: bool) -> None:
        """Add one step.

        Args:
            losses: float32 [H] of this process.
            images: Images of all ranks.
            waited: Seconds spent waiting for data.
            seconds: Seconds in all.
            succeeded: Whether the gradient was finite; the losses of a skipped step, which may be NaN, are left out.
        """
        if succeeded:
            self._losses += losses
            self._succeeded += 1
        self.steps += 1
        self.images += images
        self.waited += waited
        self.seconds += seconds

    @property
    def mean_losses(self) -> Tensor:
        """Mean losses float32 [H] of this process over the steps that succeeded; NaN when none did."""
        return self._losses / self._succeeded if self._succeeded else torch.full_like(self._losses, torch.nan)

    @property
    def images_per_second(self) -> float:
        """Images of all ranks per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, 0..1."""
        return self.waited / self.seconds if self.seconds else 0.0
