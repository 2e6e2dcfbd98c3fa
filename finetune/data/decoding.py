"""Read images at the size of a model, a whole data set or batch by batch; count and name those that cannot be read.

An unreadable image is skipped. More than the share `TOLERATED` of them stop the run: the data set is damaged then, and
a model trained on the rest would hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...converters.records.preprocessing import Preprocessing
from ...errors import DataError, InputError
from .dataset import Dataset
from .image_files import UnreadableImageError
from .jpeg.second_decoder import decode_plain_jpeg

__all__ = [
    "TOLERATED",
    "Pixels",
    "Resize",
    "check_unreadable",
    "first_images",
    "images_read",
    "read_image",
    "read_pixels",
    "stream_pixels",
    "unreadable_note",
]

TOLERATED = 0.01
"""The largest share of unreadable images with which a run continues."""

_NAMED = 5

Resize = Callable[[Image.Image], NDArray[np.uint8]]
"""A function from an image to its pixels uint8 [H, W, C]."""


@dataclass(frozen=True)
class Pixels:
    """The readable images of a data set: pixels uint8 [n, H, W, C], the data set of these n, and the others' names."""

    dataset: Dataset
    values: NDArray[np.uint8]
    unreadable: tuple[str, ...]


def read_image(dataset: Dataset, resize: Resize, index: int) -> NDArray[np.uint8]:
    """The pixels uint8 [H, W, C] of image number `index`.

    Raises:
        UnreadableImageError: it cannot be decoded, or its pixel format has no 8-bit form.
    """
    stored = dataset.images.stored(index)
    pixels = decode_plain_jpeg(stored)
    owner = getattr(resize, "__self__", None)
    try:
        if pixels is None:
            return resize(dataset.images.decoded(index, stored))
        if isinstance(owner, Preprocessing) and resize == owner.resize:  # takes pixels as they are
            return owner.resize(pixels)
        return resize(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    except InputError as error:
        raise UnreadableImageError(str(error)) from error


def images_read(dataset: Dataset, resize: Resize) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
    """The function from numbers [n] of images that could be read before to their pixels uint8 [n, H, W, C].

    It raises DataError for one that cannot be read any more.
    """

    def read(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        try:
            return np.stack([read_image(dataset, resize, number) for number in numbers.tolist()])
        except UnreadableImageError as error:
            raise DataError(f"{dataset.name}: an image that was read before cannot be read now: {error}") from error

    return read


def read_pixels(dataset: Dataset, resize: Resize, *, threads: int = 4) -> Pixels:
    """Decode every image with `resize`, several at a time, into one array.

    Raises:
        DataError: more than 1 % of the images cannot be read.
    """
    count = len(dataset)
    values: NDArray[np.uint8] | None = None
    readable: list[int] = []
    for positions, pixels in stream_pixels(dataset, resize, 64 * threads, threads=threads):
        if values is None:
            values = np.empty((count, *pixels.shape[1:]), dtype=np.uint8)
        values[len(readable) : len(readable) + len(positions)] = pixels
        readable += positions.tolist()
    if values is None:
        raise DataError(f"{dataset.name}: no image can be read")
    if len(readable) == count:
        return Pixels(dataset, values, ())
    chosen = np.array(readable, dtype=np.int64)
    unreadable = tuple(dataset.names[index] for index in np.setdiff1d(np.arange(count), chosen))
    return Pixels(dataset.subset(chosen), values[: len(chosen)], unreadable)


def stream_pixels(
    dataset: Dataset, resize: Resize, batch: int, *, threads: int = 4
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Decode every image, one batch at a time: positions of the readable ones [n <= batch], pixels [n, H, W, C].

    Raises:
        DataError: more than 1 % of the images cannot be read, as soon as that is certain.
    """
    unreadable: list[str] = []

    def read(index: int) -> NDArray[np.uint8] | None:
        try:
            return read_image(dataset, resize, index)
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(dataset), batch):
            images = dict(enumerate(pool.map(read, range(start, min(start + batch, len(dataset)))), start))
            unreadable += [dataset.names[index] for index, image in images.items() if image is None]
            check_unreadable(dataset.name, unreadable, len(dataset))
            readable = {index: image for index, image in images.items() if image is not None}
            if readable:
                yield np.array(list(readable), dtype=np.int64), np.stack(list(readable.values()))


def check_unreadable(name: str, unreadable: Iterable[str], total: int) -> None:
    """Refuse a data set if too many of its `total` images are unreadable.

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


def unreadable_note(name: str, unreadable: Iterable[str]) -> str:
    """A line for the log that counts and names the images that were skipped."""
    bad = list(unreadable)
    return f"{name}: {len(bad)} unreadable images skipped: {', '.join(bad)}"


def first_images(dataset: Dataset, count: int) -> list[Image.Image]:
    """The first `count` readable images of a data set, fewer if it has fewer."""
    images: list[Image.Image] = []
    for index in range(len(dataset)):
        if len(images) == count:
            break
        try:
            images.append(dataset.images[index])
        except UnreadableImageError:
            continue
    return images
