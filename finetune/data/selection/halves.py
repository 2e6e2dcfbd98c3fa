"""The training images in two parts with the same people: one trains the weights, the other alpha.

Alpha must not see the images that the weights learn, or it would learn how to remember them; and a loss with class
weights must know each identity of both parts. So each identity is split, not the set of identities.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..dataset import Dataset
from ..loading import TrainingPixels

__all__ = ["chosen_pixels", "held_out_identities", "split_inside_identities", "training_halves"]

_SHOWN = 3


def split_inside_identities(dataset: Dataset, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image numbers of two parts, each ascending: int64 [n] of the weights, int64 [m] of alpha.

    Each identity gives `share` of its images to the first part, rounded, and at least one to each.

    Args:
        dataset: Images of somebody.
        share: 0..1, of the first part.
        seed: Which images go where.

    Raises:
        DataError: an identity has one image.
    """
    counts = np.bincount(dataset.identities)
    single = np.flatnonzero(counts < 2)
    if single.size:
        named = ", ".join(dataset.names[int(np.flatnonzero(dataset.identities == who)[0])] for who in single[:_SHOWN])
        more = ", ..." if single.size > _SHOWN else ""
        raise DataError(
            f"{dataset.name}: search.split shares each identity's images between weights and alpha, and {single.size} "
            f"of {len(counts)} identities have one image ({named}{more}); leave them out with data.min_images=2"
        )
    rng = np.random.default_rng([seed, 17])
    order = rng.permutation(len(dataset))
    order = order[np.argsort(dataset.identities[order], kind="stable")]
    first = np.clip(np.floor(counts * share + 0.5).astype(np.int64), 1, counts - 1)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    to_first = place < np.repeat(first, counts)
    return np.sort(order[to_first]), np.sort(order[~to_first])


def training_halves(pixels: TrainingPixels, share: float, seed: int) -> tuple[TrainingPixels, TrainingPixels]:
    """The images of the weights and those of alpha; an identity has the same number in both.

    Raises:
        DataError: as `split_inside_identities`.
    """
    weights, alpha = split_inside_identities(pixels.dataset, share, seed)
    name = pixels.dataset.name
    return (
        chosen_pixels(pixels, weights, f"{name} (part of the weights)"),
        chosen_pixels(pixels, alpha, f"{name} (part of alpha)"),
    )


def held_out_identities(dataset: Dataset, share: float, seed: int) -> NDArray[np.bool_]:
    """Which images are of identities that cells are ranked on, `share` of all: bool [N].

    Raises:
        DataError: either part would have fewer than two identities.
    """
    count = dataset.identity_count
    held = max(2, round(count * share))
    if count - held < 2:
        raise DataError(
            f"{dataset.name}: {count} training identities cannot be shared between training and ranking cells; give "
            "more people, or set search.shortlist=1"
        )
    chosen = np.random.default_rng([seed, 3]).permutation(count)[:held]
    return np.isin(dataset.identities, chosen)


def chosen_pixels(pixels: TrainingPixels, positions: NDArray[np.int64], name: str) -> TrainingPixels:
    """The images at `positions`, which keep the numbers of their identities where all identities are among them."""
    dataset = pixels.dataset
    part = dataset.subset(positions, name)
    kept = dataset.identities[positions]
    if len(np.unique(kept)) == dataset.identity_count:
        part = replace(part, identities=kept)
    values = None if pixels.values is None else pixels.values[positions]
    return replace(pixels, dataset=part, values=values)
