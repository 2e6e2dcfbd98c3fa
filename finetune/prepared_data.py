"""The data of a run, ready for the loop: training pixels, and held-out pixels for the evaluations between epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..converters.preprocessing import Preprocessing
from ..errors import DataError
from .config import FinetuneConfig
from .data.dataset import Dataset
from .data.decoding import Pixels, read_pixels
from .data.loading import TrainingPixels
from .data.sources import open_dataset
from .data.splits import split_by_identity

__all__ = ["PreparedData", "open_training_data", "prepare_data"]


@dataclass(frozen=True)
class PreparedData:
    """`notes` are lines for the log: what was left out, and why."""

    train: TrainingPixels
    held_out: Pixels
    notes: tuple[str, ...]


def open_training_data(config: FinetuneConfig) -> tuple[Dataset, Dataset]:
    """Training and held-out data sets, nothing decoded.

    Raises:
        DataError: too few identities in either.
        InputError: a data set does not exist.
    """
    train = open_dataset(config.data.train)
    if config.data.evaluate is not None:
        held_out = open_dataset(config.data.evaluate, "test")
    else:
        train, held_out = split_by_identity(train, config.data.holdout, config.seed)
    if train.identity_count < 2:
        raise DataError(f"{train.name}: one identity; training needs at least 2")
    return train, held_out


def prepare_data(config: FinetuneConfig, preprocessing: Preprocessing) -> PreparedData:
    """Open both data sets and read what fits into memory at the model's size.

    Raises:
        DataError: over 1 % of the images of a data set cannot be read.
    """
    train, held_out = open_training_data(config)
    notes = [f"{dataset.name}: {note}" for dataset in (train, held_out) for note in dataset.notes]
    if config.data.evaluate == config.data.train and held_out.names == train.names:
        notes.append("data.evaluate is data.train: these metrics are of the training images; null holds some out")
    image_bytes = preprocessing.height * preprocessing.width * preprocessing.channels
    pixels: NDArray[np.uint8] | None = None
    if len(train) * image_bytes <= config.data.memory_gb * 1e9:
        read = read_pixels(train, preprocessing.resize)
        train, pixels = read.dataset, read.values
        notes += _unreadable_notes(read)
    held_out_pixels = read_pixels(held_out, preprocessing.resize)
    notes += _unreadable_notes(held_out_pixels)
    resize: Callable[[Image.Image], NDArray[np.uint8]] = preprocessing.resize
    return PreparedData(TrainingPixels(train, resize, pixels), held_out_pixels, tuple(notes))


def _unreadable_notes(pixels: Pixels) -> list[str]:
    if not pixels.unreadable:
        return []
    return [
        f"{pixels.dataset.name}: {len(pixels.unreadable)} unreadable images skipped: {', '.join(pixels.unreadable)}"
    ]
