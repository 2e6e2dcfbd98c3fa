"""How good a crop shows its person, 0 to 1, from its pixels and its row alone.

    q = .35 sharpness + .25 size + .15 shape + .10 exposure + .15 confidence

Sharpness: variance of the 3x3 Laplacian of grey at 128x64 pixels, as its rank within the track. Size: height / 256, at
most 1. Shape: 1 - min(1, |log(height / width / 2.2)| / log 2), for a standing person is about 2.2 times as high as
wide. Exposure: 1 - share of pixels below 10 or above 245. Crops under 32 pixels high, or at the frame's edge, get half.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....finetune.data.decoding import check_unreadable
from ....finetune.data.image_files import UnreadableImageError
from ..inputs.crops import Crops

__all__ = ["CropQuality", "crop_quality", "look_of"]

_HEIGHT, _WIDTH = 128, 64
_WEIGHTS = np.array([0.35, 0.25, 0.15, 0.10, 0.15])
_STANDING = 2.2
_LOW = 32
"""Pixels; crops of less height count half."""
_THREADS = 4
_LAPLACIAN, _EXPOSURE, _TALL, _WIDE = range(4)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class CropQuality:
    """The readable crops, and q float64 [N] of each."""

    crops: Crops
    values: Values
    unreadable: tuple[str, ...]


def crop_quality(crops: Crops) -> CropQuality:
    """Score every crop; unreadable ones are left out.

    Raises:
        DataError: more than 1 % cannot be read.
    """

    def look(row: int) -> Values | None:
        try:
            return look_of(crops.images[row])
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        looks = list(pool.map(look, range(len(crops))))
    unreadable = tuple(name for name, found in zip(crops.names, looks, strict=True) if found is None)
    check_unreadable(crops.name, unreadable, len(crops))
    readable = crops.subset(np.array([row for row, found in enumerate(looks) if found is not None], dtype=np.int64))
    values = np.stack([found for found in looks if found is not None])
    return CropQuality(readable if unreadable else crops, _score(readable, values), unreadable)


def look_of(image: Image.Image) -> Values:
    """Of one image, float64 [4]: variance of the Laplacian, exposure, height and width in pixels."""
    grey = np.asarray(image.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR), dtype=np.float64)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    exposure = 1 - np.mean((grey < 10) | (grey > 245))
    return np.array([laplacian.var(), exposure, image.height, image.width])


def _score(crops: Crops, looks: Values) -> Values:
    height, width = looks[:, _TALL], looks[:, _WIDE]
    parts = np.stack(
        [
            _ranks(looks[:, _LAPLACIAN], crops.track),
            np.minimum(1, height / 256),
            1 - np.minimum(1, np.abs(np.log(height / width / _STANDING)) / np.log(2)),
            looks[:, _EXPOSURE],
            crops.confidence,
        ],
        axis=1,
    )
    halved = (height < _LOW) | crops.at_edge
    scores: Values = parts @ _WEIGHTS * np.where(halved, 0.5, 1.0)
    return scores


def _ranks(values: Values, groups: NDArray[np.int64]) -> Values:
    """Rank within the group from 0 (lowest) to 1; the mean rank of equal values, 1 where there is one value."""
    ranks = np.ones(len(values))
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
        if end - start > 1:
            ordered = np.sort(values[start:end])
            below = np.searchsorted(ordered, values[start:end], side="left")
            upto = np.searchsorted(ordered, values[start:end], side="right")
            ranks[start:end] = (below + upto - 1) / 2 / (end - start - 1)
    return ranks
