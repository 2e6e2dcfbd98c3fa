"""The digest of a set of images: one sha256 that does not depend on their order.

It covers what the model receives, the bytes of each array after decoding and preprocessing: a folder and a generator
of the same images have the same digest, and another resize gives another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["combined_digest", "describe_images", "row_digests"]


def row_digests(arrays: Sequence[NDArray[Any]]) -> list[bytes]:
    """One sha256 per row of a batch, over dtype, shape and bytes of that row in each array [N, ...].

    An array whose axis 0 differs from N has no rows per image; it enters the digest of every row as a whole.
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
    """The sha256 over the sorted digests, in hexadecimal."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def describe_images(images: NDArray[Any] | Sequence[NDArray[Any]], *, random: bool) -> dict[str, Any]:
    """The facts that provenance records about measured images: their number, their digest, whether they are random."""
    arrays = [images] if isinstance(images, np.ndarray) else list(images)
    return {"images": _count(arrays), "sha256": combined_digest(row_digests(arrays)), "random": random}


def _count(arrays: Sequence[NDArray[Any]]) -> int:
    """N: the size of axis 0 of the first array that has axes."""
    return next((len(array) for array in arrays if array.ndim), 0)
