"""The data of a run, ready for the loop: training images, and held-out images for the evaluations between epochs.

Both are kept decoded while they fit into `data.memory_gb` together, training images first; what does not fit is
decoded at each use. Only the rank that evaluates reads held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...errors import DataError
from ..config.config import FinetuneConfig
from ..data.dataset import Dataset
from ..data.decoding import Pixels, Resize, read_pixels, unreadable_note
from ..data.distinct_images import Contents, content_numbers, count_shared, one_of_each, refuse_two_identities
from ..data.formats.sources import open_dataset
from ..data.loading import TrainingPixels
from ..data.partners import with_partners
from ..data.splits import split_by_identity
from ..evaluation.matched_images import match_images
from ..processes.collectives import rank
from ..runs.data_record import DataRecord

__all__ = ["HeldOutImages", "PreparedData", "describe_data", "open_training_data", "prepare_data"]


@dataclass(frozen=True)
class HeldOutImages:
    """Images to evaluate on: in memory (`pixels`), or decoded at each evaluation where `pixels` is None."""

    dataset: Dataset
    resize: Resize
    pixels: Pixels | None


@dataclass(frozen=True)
class PreparedData:
    """The data of a run; `notes` are lines for the log that name what was left out, and why."""

    train: TrainingPixels
    held_out: HeldOutImages
    notes: tuple[str, ...]
    record: DataRecord
    """What a resumed run is compared by."""


def open_training_data(config: FinetuneConfig) -> tuple[Dataset, Dataset]:
    """Training and held-out data sets, in this order; no image is decoded.

    Raises:
        DataError: too few identities in either, or pairs to verify as training data.
        InputError: a data set does not exist.
    """
    return _split(config, _open_source(config))


def describe_data(config: FinetuneConfig) -> DataRecord:
    """The record of a run's data, from labels alone.

    Raises:
        DataError, InputError: as `open_training_data`.
    """
    source = _open_source(config)
    return _record(config, source, *_split(config, source))


def _open_source(config: FinetuneConfig) -> Dataset:
    train = open_dataset(config.data.train)
    if train.pairs is not None:
        raise DataError(
            f"{train.name}: pairs to verify, not people to learn from: each image counts as an identity of its own; "
            "give them as data.evaluate, and a folder, records or a manifest of identities as data.train"
        )
    return train.of_somebody()


def _record(config: FinetuneConfig, source: Dataset, train: Dataset, held_out: Dataset) -> DataRecord:
    data, evaluation = config.data, config.evaluation
    measured: list[object] = [evaluation.flip, evaluation.rerank]
    if data.evaluate is not None:
        measured.append(held_out)
    held = None if data.evaluate is not None else data.holdout
    return DataRecord.of(train, held_out, seed=config.seed, source=(source, held), evaluation=measured)


def _split(config: FinetuneConfig, train: Dataset) -> tuple[Dataset, Dataset]:
    if config.data.evaluate is not None:
        held_out = open_dataset(config.data.evaluate, "test")
    else:
        train, held_out = split_by_identity(train, config.data.holdout, config.seed)
    if config.data.sampler != "random":
        train = with_partners(train)
    if train.identity_count < 2:
        raise DataError(f"{train.name}: one identity; training needs at least 2")
    return train, held_out


def prepare_data(config: FinetuneConfig, preprocessing: Preprocessing) -> PreparedData:
    """Open both data sets and read what fits into memory at the model's size.

    Raises:
        DataError: over 1 % of the images of a data set cannot be read.
    """
    source = _open_source(config)
    train, held_out = _split(config, source)
    record = _record(config, source, train, held_out)
    opened = (train,) if config.data.evaluate is None else (train, held_out)
    notes = [f"{dataset.name}: {note}" for dataset in opened for note in dataset.notes]
    if config.data.evaluate == config.data.train and held_out.names == train.names:
        notes.append("data.evaluate is data.train: these metrics are of the training images; null holds some out")
    image_bytes = preprocessing.height * preprocessing.width * preprocessing.channels
    room = int(config.data.memory_gb * 1e9 / image_bytes)
    values: NDArray[np.uint8] | None = None
    contents: Contents | None = None
    if len(train) <= room:
        room -= len(train)
        read = read_pixels(train, preprocessing.resize)
        train, values = read.dataset, read.values
        notes += _unreadable_notes(read)
        contents = content_numbers(values)
        refuse_two_identities(train, contents)
        again = len(train) - len(one_of_each(train, contents)[0])
        if again:
            notes.append(f"{train.name}: {again} images are copies of others, by content; they are trained on as well")
    else:
        notes.append(f"{train.name}: not searched for copies of images, because it does not fit into data.memory_gb")
    pixels: Pixels | None = None
    if len(held_out) <= room and rank() == 0:
        pixels = read_pixels(held_out, preprocessing.resize)
        held_out = pixels.dataset
        notes += _unreadable_notes(pixels)
        held_contents = content_numbers(pixels.values)
        evaluation = config.evaluation
        matched = match_images(held_out, held_contents, evaluation.protocol, rerank=evaluation.rerank)
        notes += [f"{held_out.name}: {note}" for note in matched.notes]
        if contents is not None and (shared := count_shared(held_contents, contents)):
            notes.append(f"{shared} images of {held_out.name} are also trained on: these metrics flatter the model")
    return PreparedData(
        TrainingPixels(train, preprocessing.resize, values),
        HeldOutImages(held_out, preprocessing.resize, pixels),
        tuple(notes),
        record,
    )


def _unreadable_notes(pixels: Pixels) -> list[str]:
    return [unreadable_note(pixels.dataset.name, pixels.unreadable)] if pixels.unreadable else []
