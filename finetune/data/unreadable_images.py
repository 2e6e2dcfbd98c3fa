"""The images that could not be read while batches were made, counted over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from ..processes.collectives import gather_numbers
from .dataset import Dataset
from .decoding import check_unreadable
from .loading import Batch

__all__ = ["UnreadableImages"]


class UnreadableImages:
    """Numbers of unreadable images of one data set; others stood in for them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: set[int] = set()
        self._met: set[int] = set()

    def note(self, batches: Iterable[Batch]) -> None:
        """Remember those of some batches of this process."""
        self._met.update(index for batch in batches for index in batch.unreadable)

    def share(self, device: torch.device, log: Callable[[str], object]) -> None:
        """Count and log those of all processes. A collective.

        Raises:
            DataError: over 1 % of the images cannot be read.
        """
        names = self._dataset.names
        for index in sorted(gather_numbers(self._met, device) - self._known):
            log(f"unreadable image replaced by another: {names[index]}")
            self._known.add(index)
        self._met.clear()
        check_unreadable(self._dataset.name, (names[i] for i in sorted(self._known)), len(self._dataset))
