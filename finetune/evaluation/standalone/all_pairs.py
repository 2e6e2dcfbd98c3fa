"""Every unordered pair of images of a data set, or the pairs that it lists.

An image and itself are no pair: a matrix of all similarities with its diagonal has as many perfect matches as images,
which raises every true accept rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ...data.dataset import NOBODY, Dataset
from ...data.pair_drawing import draw_pairs

__all__ = ["MOST_PAIRS", "every_pair", "protocol_pairs"]

Indices = NDArray[np.int64]

MOST_PAIRS = 10_000_000
"""Of 4,472 images; pairs, scores and whom they show take about 60 bytes each."""


def every_pair(dataset: Dataset) -> Indices:
    """All pairs i < j int64 [P, 3] of images of somebody: image, image, 1 for the same identity; or the listed ones.

    Raises:
        DataError: there are more than `MOST_PAIRS`, or none of one kind.
    """
    if dataset.pairs is not None:
        return dataset.pairs
    known = np.flatnonzero(dataset.identities != NOBODY)
    count = len(known) * (len(known) - 1) // 2
    if count > MOST_PAIRS:
        most = int((1 + (1 + 8 * MOST_PAIRS) ** 0.5) / 2)
        raise DataError(
            f"{dataset.name}: {len(known)} images make {count:,} pairs, more than {MOST_PAIRS:,}; measure a part with "
            f"--limit {most}, or list pairs"
        )
    first, second = np.triu_indices(len(known), 1)
    pairs = np.stack([known[first], known[second]], axis=1)
    same = dataset.identities[pairs[:, 0]] == dataset.identities[pairs[:, 1]]
    if not same.any() or same.all():
        raise DataError(f"{dataset.name}: all pairs are of one kind; two identities, one with two images, are needed")
    return np.column_stack([pairs, same]).astype(np.int64)


def protocol_pairs(dataset: Dataset) -> Indices:
    """The pairs int64 [P, 3] that accuracy is measured on: listed ones, or a balanced draw with the lower image first.

    Raises:
        DataError: too few pairs for ten folds.
    """
    if dataset.pairs is not None:
        return dataset.pairs
    drawn = draw_pairs(dataset.identities)
    return np.column_stack([np.sort(drawn[:, :2], axis=1), drawn[:, 2]])
