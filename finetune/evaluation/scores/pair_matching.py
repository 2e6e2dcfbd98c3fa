"""The matcher's score of each listed pair of images, with as many images described at a time as memory should hold.

Maps are large (a hundred kilobytes for an image and its mirror image), so they are never kept for a whole set: pairs
are taken block of images by block of images. Pairs that are listed in order, as those of LFW, describe each image once.

Maps of mirror images are not added: both images of a pair are matched as they are and mirrored, and the four scores are
averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ....errors import GateError
from ..cores import Progress, no_progress

__all__ = ["PairMatcher", "ReadImages", "match_pairs"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]

ReadImages = Callable[[Indices], Pixels]
"""From image numbers to pixels uint8 [n, H, W, C]."""

_IMAGES = 512
"""Described at a time, twice: 2 x 100 MB of 7x7x512 maps in float32, with mirror images."""
_PAIRS = 256


class PairMatcher(Protocol):
    """What a network with a matcher offers; a description is what it needs to know of some images."""

    def describe(self, pixels: Pixels) -> Any:
        """The description of images uint8 [n, H, W, C]."""

    def join(self, parts: list[Any]) -> Any:
        """One description of the images of several."""

    def take(self, described: Any, rows: Indices) -> Any:
        """The description of the images in some rows."""

    def visibility(self, described: Any) -> Floats | None:
        """What the model takes to be visible of the images, 0 to 1, [n, h, w]; None where it cannot say."""

    def scores(self, first: Any, second: Any) -> Floats:
        """The score float32 [n] of each image of `first` with that in the same row of `second`."""


def match_pairs(
    matcher: PairMatcher,
    read: ReadImages,
    pairs: Indices,
    *,
    flip: bool,
    batch: int,
    images: int = _IMAGES,
    report: Progress = no_progress,
) -> Floats:
    """Scores float32 [P] of pairs of image numbers int64 [P, 2 or more].

    Args:
        matcher: Describes images and scores descriptions.
        read: Reads images by their numbers.
        pairs: The first two columns are the images.
        flip: Average over both images as they are and mirrored.
        batch: Images described in one call.
        images: Images of a block.
        report: Called with what is done.

    Raises:
        GateError: a score is not finite.
    """
    scores = np.empty(len(pairs), dtype=np.float32)
    blocks = pairs[:, :2] // images
    order = np.lexsort((blocks[:, 1], blocks[:, 0]))
    ends = np.flatnonzero(np.diff(blocks[order], axis=0).any(axis=1)) + 1
    asked = np.unique(pairs[:, :2])
    held: dict[int, tuple[Indices, list[Any]]] = {}
    done = 0
    for rows in np.split(order, ends):
        here = blocks[rows[0]].tolist()
        held = {block: held[block] for block in here if block in held}
        for block in here:
            if block not in held:
                numbers = asked[asked // images == block]
                held[block] = numbers, _described(matcher, read, numbers, report, flip=flip, batch=batch)
        (first_numbers, firsts), (second_numbers, seconds) = (held[block] for block in here)
        first = np.searchsorted(first_numbers, pairs[rows, 0])
        second = np.searchsorted(second_numbers, pairs[rows, 1])
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            found = [
                matcher.scores(matcher.take(one, first[part]), matcher.take(other, second[part]))
                for one in firsts
                for other in seconds
            ]
            scores[rows[part]] = np.mean(found, axis=0, dtype=np.float64)
            done += len(rows[part])
            report("matching pairs", done, len(pairs))
    if not np.isfinite(scores).all():
        raise GateError(
            f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores of the matcher are not finite"
        )
    return scores


def _described(
    matcher: PairMatcher, read: ReadImages, numbers: Indices, report: Progress, *, flip: bool, batch: int
) -> list[Any]:
    """Descriptions of the images, and with `flip` those of their mirror images."""
    plain, mirrored = [], []
    for start in range(0, len(numbers), batch):
        pixels = read(numbers[start : start + batch])
        plain.append(matcher.describe(pixels))
        if flip:
            mirrored.append(matcher.describe(np.ascontiguousarray(pixels[:, :, ::-1])))
        report("describing images", start + len(pixels), len(numbers))
    return [matcher.join(parts) for parts in (plain, mirrored) if parts]
