"""Read a whole data set into memory at the size a model wants; count and name the images that cannot be read.

An unreadable image is skipped. More than `TOLERATED` of them stop the run: the data set is then damaged, and a
model trained on the rest would hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DataError
from .dataset import Dataset, UnreadableImageError

__all__ = ["TOLERATED", "Pixels", "check_unreadable", "first_images", "read_pixels", "stream_pixels"]

TOLERATED = 0.01
"""The largest share of unreadable images a run goes on with."""

_NAMED = 5

Resize = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass(frozen=True)
class Pixels:
    """The readable images of a data set: uint8 [n, H, W, C], and the data set cut down to them."""

    dataset: Dataset
    values: NDArray[np.uint8]
    unreadable: tuple[str, ...]


def read_pixels(dataset: Dataset, resize: Resize, *, threads: int = 4) -> Pixels:
    """Decode every image with `resize` (image -> uint8 [H, W, C]), several at a time.

    Raises:
        DataError: more than 1 % of the images cannot be read.
    """

    def read(index: int) -> NDArray[np.uint8] | None:
        try:
            return resize(dataset.images[index])
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(read, range(len(dataset))))
    readable = [index for index, image in enumerate(images) if image is not None]
    unreadable = [dataset.names[index] for index, image in enumerate(images) if image is None]
    check_unreadable(dataset.name, unreadable, len(dataset))
    values = np.stack([image for image in images if image is not None])
    if not unreadable:
        return Pixels(dataset, values, ())
    return Pixels(dataset.subset(np.array(readable, dtype=np.int64)), values, tuple(unreadable))


def stream_pixels(dataset: Dataset, resize: Resize, batch: int, *, threads: int = 4) -> Iterator[NDArray[np.uint8]]:
    """Decode every image as `read_pixels` does, but hold only one batch uint8 [<= batch, H, W, C] at a time.

    Raises:
        DataError: more than 1 % of the images cannot be read, as soon as that is certain.
    """
    unreadable: list[str] = []

    def read(index: int) -> NDArray[np.uint8] | None:
        try:
            return resize(dataset.images[index])
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(dataset), batch):
            indices = range(start, min(start + batch, len(dataset)))
            images = list(pool.map(read, indices))
            unreadable += [dataset.names[i] for i, image in zip(indices, images, strict=True) if image is None]
            check_unreadable(dataset.name, unreadable, len(dataset))
            readable = [image for image in images if image is not None]
            if readable:
                yield np.stack(readable)


def check_unreadable(name: str, unreadable: Iterable[str], total: int) -> None:
    """Raise when too many images were unreadable.

    Raises:
        DataError: naming the first few.
    """
    bad = list(unreadable)
    if len(bad) > TOLERATED * total:
        listed = ", ".join(bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
        raise DataError(
            f"{name}: {len(bad)} of {total} images cannot be read ({listed}); at most {TOLERATED:.0%} is "
            "tolerated: repair or remove them"
        )


def first_images(dataset: Dataset, count: int) -> list[Image.Image]:
    """The first `count` readable images of a data set, fewer when it has fewer."""
    images: list[Image.Image] = []
    for index in range(len(dataset)):
        if len(images) == count:
            break
        try:
            images.append(dataset.images[index])
        except UnreadableImageError:
            continue
    return images
