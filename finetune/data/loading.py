"""Batches of augmented training images in the order of a plan, made here or in worker processes.

Pixels come from memory or are decoded at each use. An image that cannot be read then is replaced by another of its
identity, so that ranks stay in step, and its number is handed on to be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ...errors import DataError
from ..config import AugmentConfig
from .augmentation import augment, sample_generator
from .dataset import Dataset, UnreadableImageError

__all__ = ["Batch", "EpochSamples", "TrainingPixels", "iterate_batches"]

Key = tuple[int, int]
"""Place in the epoch's plan, and image number."""


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [n, H, W, C], labels int64 [n], and the numbers of images that could not be read."""

    pixels: Tensor
    labels: Tensor
    unreadable: tuple[int, ...]


@dataclass(frozen=True)
class TrainingPixels:
    """Where a training image's pixels come from: `values` [N, H, W, C] in memory, or decoded from `dataset`."""

    dataset: Dataset
    resize: Callable[[Image.Image], NDArray[np.uint8]]
    values: NDArray[np.uint8] | None

    def read(self, index: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
        """Pixels of an image, or of the next readable one of its identity; and the unreadable ones met.

        Raises:
            DataError: no image of the identity can be read.
        """
        if self.values is not None:
            return self.values[index], ()
        alike = np.flatnonzero(self.dataset.identities == self.dataset.identities[index])
        start = int(np.searchsorted(alike, index))
        unreadable: list[int] = []
        for candidate in np.roll(alike, -start):
            try:
                return self.resize(self.dataset.images[int(candidate)]), tuple(unreadable)
            except UnreadableImageError:
                unreadable.append(int(candidate))
        raise DataError(f"{self.dataset.name}: no image of identity {self.dataset.identities[index]} can be read")


@dataclass(frozen=True)
class EpochSamples(TorchDataset[tuple[NDArray[np.uint8], int, tuple[int, ...]]]):
    """The augmented samples of one epoch, by key."""

    pixels: TrainingPixels
    augment: AugmentConfig
    fill: tuple[float, ...]
    seed: int
    epoch: int

    def __getitem__(self, key: Key) -> tuple[NDArray[np.uint8], int, tuple[int, ...]]:
        position, index = key
        image, unreadable = self.pixels.read(index)
        rng = sample_generator(self.seed, self.epoch, position)
        changed = augment(image, self.augment, self.fill, rng)
        return changed, int(self.pixels.dataset.identities[index]), unreadable


def iterate_batches(
    samples: EpochSamples, plan: NDArray[np.int64], columns: slice, workers: int, *, first: int = 0
) -> Iterator[Batch]:
    """One batch a row of `plan` [steps, global batch] from row `first` on, of the images in `columns`."""
    width = plan.shape[1]
    keys: list[list[Key]] = [
        [(step * width + column, int(plan[step, column])) for column in range(width)[columns]]
        for step in range(first, len(plan))
    ]
    if workers == 0:
        return (_collate([samples[key] for key in batch]) for batch in keys)
    # Its own generator: the default would draw from the training process's, and a resumed run would differ.
    return iter(
        DataLoader(
            samples,
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_collate,
            generator=torch.Generator(),
        )
    )


def _collate(samples: list[tuple[NDArray[np.uint8], int, tuple[int, ...]]]) -> Batch:
    return Batch(
        torch.from_numpy(np.stack([image for image, _, _ in samples])),
        torch.tensor([label for _, label, _ in samples], dtype=torch.int64),
        tuple(index for _, _, unreadable in samples for index in unreadable),
    )
