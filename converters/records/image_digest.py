"""A name for a set of images: one sha256 over them, whatever their order.

What is hashed is what the model gets: the bytes of each image's array after decoding and preprocessing, so that a
generator and a folder have one alike, and another resize is another set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["combined_digest", "describe_images", "row_digests"]


def row_digests(arrays: Sequence[NDArray[Any]]) -> list[bytes]:
    """The sha256 of every row of a batch: dtype, shape and bytes of that row of each array [N, ...].

    An array of another height than the first has no row per image: it is part of every row, whole.
    """
    digests = []
    count = _count(arrays)
    for index in range(count):
        digest = hashlib.sha256()
        for array in arrays:
            row = np.ascontiguousarray(array[index] if array.ndim and len(array) == count else array)
            digest.update(f"{row.dtype.str}{row.shape}".encode())
            digest.update(row.data if row.ndim else row.tobytes())
        digests.append(digest.digest())
    return digests


def combined_digest(digests: Iterable[bytes]) -> str:
    """The sha256 of sorted digests, as hexadecimal digits."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def describe_images(images: NDArray[Any] | Sequence[NDArray[Any]], *, random: bool) -> dict[str, Any]:
    """What provenance says of the images something was measured on: how many, their digest, whether made up."""
    arrays = [images] if isinstance(images, np.ndarray) else list(images)
    return {"images": _count(arrays), "sha256": combined_digest(row_digests(arrays)), "random": random}


def _count(arrays: Sequence[NDArray[Any]]) -> int:
    """The height of the first array that has one."""
    return next((len(array) for array in arrays if array.ndim), 0)
