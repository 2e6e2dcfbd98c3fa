"""What a data set is here: images, one identity and one camera a image, and the names to report them by.

Readers (`image_folder`, `market1501`, ...) and generators make a `Dataset`; samplers plan over its labels alone,
and nothing decodes an image before its pixels are wanted. Reading pixels is `decoding`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DataError

__all__ = ["ArrayImages", "Dataset", "FileImages", "ImageSource", "UnreadableImageError", "encode_identities"]

UNKNOWN_CAMERA = -1


class UnreadableImageError(Exception):
    """One image cannot be decoded. Never reaches the user: `decoding` counts and names them."""


class ImageSource(Protocol):
    """Where images come from. Indexing decodes, and raises `UnreadableImageError`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image: ...


@dataclass(frozen=True)
class FileImages:
    """Images in files, decoded at each access."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        try:
            with Image.open(self.paths[index]) as image:
                image.load()
                return image
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(str(error)) from error


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: uint8 RGB pixels [N, H, W, 3]."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class _Chosen:
    """The images of another source at some positions."""

    source: ImageSource
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Image.Image:
        return self.source[int(self.positions[index])]


@dataclass(frozen=True)
class Dataset:
    """N images with labels. Arrays have length N; images are named for messages."""

    name: str
    images: ImageSource
    identities: NDArray[np.int64]
    """0 .. identity_count - 1, every value in use."""
    cameras: NDArray[np.int64]
    """Camera number; `UNKNOWN_CAMERA` where there is none."""
    names: tuple[str, ...]
    is_query: NDArray[np.bool_] | None = None
    """Query images of a fixed retrieval protocol; None where the data set has none."""
    pairs: NDArray[np.int64] | None = None
    """[P, 3] of a fixed verification protocol: image, image, 1 for the same person; None where there is none."""
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
        """Number of different identities."""
        return int(self.identities.max()) + 1

    def subset(self, positions: NDArray[np.int64], name: str | None = None) -> Dataset:
        """The images at `positions`, identities renumbered without gaps. Fixed pairs do not survive."""
        chosen = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            name=name or self.name,
            images=_Chosen(self.images, chosen),
            identities=encode_identities(self.identities[chosen].tolist()),
            cameras=self.cameras[chosen],
            names=tuple(self.names[i] for i in chosen),
            is_query=None if self.is_query is None else self.is_query[chosen],
            pairs=None,
        )


def encode_identities(keys: Sequence[object]) -> NDArray[np.int64]:
    """Number identity keys 0, 1, ... in the order of first appearance: int64 [N]."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
