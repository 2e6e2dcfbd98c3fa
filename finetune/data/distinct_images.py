"""Images of the same content: found by their pixels, and kept from meeting themselves in an evaluation.

Browsers, crawlers and merged data sets leave the same image under two names. Compared with itself it is found by any
embedding, one of noise included, so an evaluation must not pair it; under two identities, one of the labels is wrong,
and nobody but the owner of the data can say which.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .dataset import NOBODY, Dataset

__all__ = ["content_numbers", "count_shared", "one_of_each", "refuse_two_identities", "without_own_copies"]

Indices = NDArray[np.int64]
Contents = NDArray[np.void]


def content_numbers(pixels: NDArray[np.uint8]) -> Contents:
    """A digest of each image's pixels [N, H, W, C], equal for equal ones: [N] of 16 bytes (BLAKE2b)."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels)
    return np.frombuffer(digests, dtype="V16")


def refuse_two_identities(dataset: Dataset, contents: Contents) -> None:
    """Refuse a data set that has one image under two identities.

    Raises:
        DataError: naming both identities by their images.
    """
    number = _numbered(contents)
    known = np.flatnonzero(dataset.identities != NOBODY)
    order = known[np.lexsort([known, number[known]])]
    alike = (number[order][1:] == number[order][:-1]) & (
        dataset.identities[order][1:] != dataset.identities[order][:-1]
    )
    if alike.any():
        place = int(np.flatnonzero(alike)[0])
        raise DataError(
            f"{dataset.name}: {dataset.names[order[place]]} and {dataset.names[order[place + 1]]} are the same image "
            f"under two identities ({int(alike.sum())} such pairs); remove the wrong ones"
        )


def one_of_each(dataset: Dataset, contents: Contents) -> tuple[Indices, tuple[str, ...]]:
    """Positions of the first image of each content, int64 [n], and a note on the others."""
    _, first = np.unique(contents, return_index=True)
    kept = np.sort(first)
    again = np.setdiff1d(np.arange(len(dataset)), kept)
    return kept, _note(dataset, again, "copies of other images, by content, left out of the match")


def without_own_copies(
    dataset: Dataset, contents: Contents, query: Indices, gallery: Indices
) -> tuple[Indices, tuple[str, ...]]:
    """The gallery without images that a query would find as its own copy, and a note on these.

    A copy under the query's own camera stays: the rule of the protocol drops it for that query, and for others of the
    identity it is an ordinary image (VeRi-776 lists every query in its gallery).
    """
    number, cameras = _numbered(contents), dataset.cameras
    own: set[tuple[int, int]] = set(zip(number[query].tolist(), cameras[query].tolist(), strict=True))
    queried = np.isin(number[gallery], number[query])
    met = [
        bool(is_queried) and (camera < 0 or (content, camera) not in own)
        for is_queried, content, camera in zip(
            queried, number[gallery].tolist(), cameras[gallery].tolist(), strict=True
        )
    ]
    copies = np.array(met, dtype=bool)
    return gallery[~copies], _note(dataset, gallery[copies], "copies of queries, by content, left out of the gallery")


def count_shared(contents: Contents, others: Contents) -> int:
    """How many images of the first set are also in the other."""
    return int(np.isin(contents, others).sum())


def _numbered(contents: Contents) -> Indices:
    return np.unique(contents, return_inverse=True)[1].astype(np.int64)


def _note(dataset: Dataset, positions: Indices, what: str) -> tuple[str, ...]:
    if not len(positions):
        return ()
    return (f"{len(positions)} {what}, such as {dataset.names[int(positions[0])]}",)
