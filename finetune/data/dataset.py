"""What a data set is here: images, one identity and one camera per image, and names for messages.

The readers in `formats` and the generators in `synthetic` make a `Dataset`; samplers plan over its labels alone. An
image is decoded only when its pixels are needed, by `decoding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DataError
from .numbered_names import NumberedNames

__all__ = ["NOBODY", "ArrayImages", "Dataset", "ImageSource", "encode_identities"]

UNKNOWN_CAMERA = -1
NOBODY = -1
"""The identity of a distractor, such as Market-1501's 0000: a wrong answer in a gallery, in no pair, in no training."""

MOST_CAMERA = 2**31 - 1
"""The largest camera number that is accepted; a larger one is a mistake in the data."""


class ImageSource(Protocol):
    """Images by number. Indexing decodes one, and raises `UnreadableImageError` if that fails."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image: ...

    def stored(self, index: int) -> bytes:
        """What the image is known by: the bytes of its file or record, or shape and pixels of one that has neither.

        Raises:
            UnreadableImageError: the bytes cannot be read.
        """

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        """The image of what `stored(index)` returned, so that both are of one reading.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: uint8 RGB pixels [N, H, W, 3]."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def stored(self, index: int) -> bytes:
        """Shape and pixels."""
        pixels: bytes = self.pixels[index].tobytes()
        return f"{self.pixels.shape[1:]}".encode() + pixels

    def decoded(self, index: int, stored: bytes) -> Image.Image:  # noqa: ARG002 - the protocol's signature
        """The image at `index`."""
        return self[index]


@dataclass(frozen=True)
class _Chosen:
    """The images of another source at some positions."""

    source: ImageSource
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Image.Image:
        return self.source[int(self.positions[index])]

    def stored(self, index: int) -> bytes:
        return self.source.stored(int(self.positions[index]))

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        return self.source.decoded(int(self.positions[index]), stored)


@dataclass(frozen=True)
class Dataset:
    """N images with labels; arrays have length N."""

    name: str
    images: ImageSource
    identities: NDArray[np.int64]
    """int64 [N], 0 .. identity_count - 1, of which every value occurs, and `NOBODY`."""
    cameras: NDArray[np.int64]
    """int64 [N], camera numbers from 0; `UNKNOWN_CAMERA` where there is none."""
    names: Sequence[str]
    """By which messages name the images."""
    is_query: NDArray[np.bool_] | None = None
    """bool [N], the query images of a fixed retrieval protocol; None where the data set has none."""
    pairs: NDArray[np.int64] | None = None
    """int64 [P, 3] of a fixed verification protocol: image, image, 1 for the same person; None where there is none."""
    landmarks: NDArray[np.float32] | None = None
    """float32 [N, 5, 2], x and y of the left eye, right eye, nose, left and right corner of the mouth, as shares of
    width and height; NaN for an image without. None where none is known."""
    notes: tuple[str, ...] = ()
    """What the reader left out and why, for the log."""

    def __post_init__(self) -> None:
        count = len(self.images)
        if not count == len(self.identities) == len(self.cameras) == len(self.names):
            raise DataError(
                f"{self.name}: {count} images, {len(self.identities)} identities, {len(self.cameras)} cameras and "
                f"{len(self.names)} names; all four must agree"
            )
        if count == 0:
            raise DataError(f"{self.name}: no images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def identity_count(self) -> int:
        """Number of different identities, without `NOBODY`."""
        return int(self.identities.max()) + 1

    @property
    def camera_count(self) -> int:
        """Number of different cameras, without the unknown one."""
        return len(np.unique(self.cameras[self.cameras != UNKNOWN_CAMERA]))

    def __str__(self) -> str:
        """What it holds, for logs: images, identities, and cameras where they are known."""
        nobody = int((self.identities == NOBODY).sum())
        held = f"{len(self)} images of {self.identity_count} identities"
        if self.camera_count:
            held += f", {self.camera_count} cameras"
        return f"{held}, {nobody} of them distractors" if nobody else held

    def of_somebody(self) -> Dataset:
        """The images that have an identity, with a note on the others."""
        known = self.identities != NOBODY
        if known.all():
            return self
        note = f"{np.count_nonzero(~known)} distractors left out: they are of nobody"
        return replace(self.subset(np.flatnonzero(known)), notes=(*self.notes, note))

    def subset(self, positions: NDArray[np.int64], name: str | None = None) -> Dataset:
        """The images at `positions` int64 [n], identities renumbered without gaps, with the pairs that remain whole."""
        chosen = np.asarray(positions, dtype=np.int64)
        names = self.names
        return replace(
            self,
            name=name or self.name,
            images=_Chosen(self.images, chosen),
            identities=encode_identities(self.identities[chosen]),
            cameras=self.cameras[chosen],
            names=names[chosen] if isinstance(names, NumberedNames) else tuple(names[i] for i in chosen),
            is_query=None if self.is_query is None else self.is_query[chosen],
            landmarks=None if self.landmarks is None else self.landmarks[chosen],
            pairs=None if self.pairs is None else _remaining_pairs(self.pairs, chosen, len(self)),
        )


def encode_identities(keys: Sequence[object] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Number identity keys 0, 1, ... in the order of first appearance, `NOBODY` apart: int64 [N]."""
    if isinstance(keys, np.ndarray):
        numbered = np.full(len(keys), NOBODY, dtype=np.int64)
        known = keys != NOBODY
        _, first, number = np.unique(keys[known], return_index=True, return_inverse=True)
        place = np.empty(len(first), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(first))
        numbered[known] = place[number]
        return numbered
    numbers: dict[object, int] = {}
    return np.array(
        [NOBODY if key == NOBODY else numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64
    )


def _remaining_pairs(pairs: NDArray[np.int64], chosen: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`pairs` of `count` images as pairs of the `chosen` ones, without those that lost an image."""
    place = np.full(count, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    moved = place[pairs[:, :2]]
    whole = (moved >= 0).all(axis=1)
    return np.concatenate([moved[whole], pairs[whole, 2:]], axis=1)
