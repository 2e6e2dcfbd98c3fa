"""A data set as embeddings: every readable image, and its mirror image, through one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..data.dataset import Dataset
from ..data.decoding import Resize, stream_pixels, unreadable_note
from ..data.distinct_images import Contents, content_numbers
from ..embedding.embed_images import EmbedImages
from ..embedding.image_digests import DigestedImages
from .cores import Progress, no_progress

__all__ = ["EmbeddedSet", "embed_dataset"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddedSet:
    """The readable images of a data set."""

    dataset: Dataset
    """These n images."""
    positions: Indices
    """Which images of the data set as it was opened they are, int64 [n]."""
    embeddings: Floats
    """float32 [n, D]."""
    contents: Contents
    """A digest of the pixels of each, [n]."""


def embed_dataset(
    embed: EmbedImages,
    dataset: Dataset,
    resize: Resize,
    *,
    batch: int,
    report: Callable[[str], object] | None = None,
    progress: Progress = no_progress,
) -> EmbeddedSet:
    """Embed a data set; one batch of images is held at a time, unreadable ones are left out.

    Args:
        embed: From pixels to embeddings, with those that are known.
        dataset: The images.
        resize: From an image to its pixels uint8 [H, W, C].
        batch: Images per batch.
        report: Called with a line about images that could not be read.
        progress: Called with the number of images that are done.

    Raises:
        DataError: over 1 % of the images cannot be read, or embeddings differ in size.
        GateError: embeddings are not finite.
    """
    rows: list[Floats] = []
    chosen, contents = [], []
    digested = DigestedImages(dataset.images) if embed.cache is not None else None
    streamed = dataset if digested is None else replace(dataset, images=digested)
    for positions, pixels in stream_pixels(streamed, resize, batch):
        embeddings = embed(pixels, None if digested is None else digested.digests[positions])
        if rows and embeddings.shape[1] != rows[0].shape[1]:
            raise DataError(
                f"{dataset.name}: the model gives embeddings of {rows[0].shape[1]} numbers for some images and of "
                f"{embeddings.shape[1]} for others; nothing can be compared"
            )
        rows.append(embeddings)
        contents.append(content_numbers(pixels))
        chosen.append(positions)
        progress(f"embedding {dataset.name}", int(positions[-1]) + 1, len(dataset))
    if not chosen:
        raise DataError(f"{dataset.name}: no image can be read")
    readable = np.concatenate(chosen)
    if len(readable) < len(dataset):
        if report is not None:
            lost = np.setdiff1d(np.arange(len(dataset)), readable)
            report(unreadable_note(dataset.name, (dataset.names[index] for index in lost)))
        dataset = dataset.subset(readable)
    return EmbeddedSet(dataset, readable, np.concatenate(rows), np.concatenate(contents))
