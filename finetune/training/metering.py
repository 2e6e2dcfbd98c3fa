"""Sums over the steps since the last report: losses, images, seconds, and seconds spent waiting for data."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Add steps, read means, reset. Losses stay on their device: fetching them at every step would wait for it."""

    def __init__(self, losses: int, device: torch.device) -> None:
        self._empty = torch.zeros(losses, device=device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._losses = self._empty.clone()
        self._taken = 0
        self.steps = 0
        self.images = 0
        self.waited = 0.0
        self.seconds = 0.0

    def add(self, losses: Tensor, images: int, waited: float, seconds: float, *, taken: bool) -> None:
        """One step: its losses [H], images of all ranks, seconds waited for data and seconds in all.

        The losses of a step that was not taken are left out: they may be no numbers.
        """
        if taken:
            self._losses += losses
            self._taken += 1
        self.steps += 1
        self.images += images
        self.waited += waited
        self.seconds += seconds

    @property
    def mean_losses(self) -> Tensor:
        """Mean losses [H] of this process over the steps taken; NaN when none was."""
        return self._losses / self._taken if self._taken else torch.full_like(self._losses, torch.nan)

    @property
    def images_per_second(self) -> float:
        """Of all ranks."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0
