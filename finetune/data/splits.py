"""Parts of a data set: by identity for training and held-out evaluation, query and gallery, pairs to verify.

All depend on the labels and a seed alone, never on the order of files on disk or on time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .dataset import UNKNOWN_CAMERA, Dataset

__all__ = ["draw_pairs", "has_cameras", "query_and_gallery", "split_by_identity"]

Indices = NDArray[np.int64]

_MOST_TO_SHUFFLE = 10_000_000
"""Up to this many pairs, they are drawn by shuffling their numbers, as for every dated result."""


def split_by_identity(dataset: Dataset, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training part and held-out part; no identity is in both. `holdout`, 0..1, is the share of identities held out.

    Raises:
        DataError: either part would have fewer than two identities.
    """
    count = dataset.identity_count
    held = round(count * holdout)
    if held < 2 or count - held < 2:
        raise DataError(
            f"{dataset.name}: {count} identities with holdout {holdout:g} leave {count - held} to train and {held} to "
            "evaluate; both need at least 2"
        )
    chosen = np.random.default_rng(seed).permutation(count)[:held]
    is_held = np.isin(dataset.identities, chosen)
    return (
        dataset.subset(np.flatnonzero(~is_held), f"{dataset.name} (train part)"),
        dataset.subset(np.flatnonzero(is_held), f"{dataset.name} (held-out part)"),
    )


def query_and_gallery(dataset: Dataset) -> tuple[Indices, Indices]:
    """Positions int64 of queries [Q] and gallery [G].

    They are the data set's own, or the first image of each identity and camera is a query.

    Raises:
        DataError: there are no queries, or no image is left for the gallery.
    """
    if dataset.is_query is not None:
        if dataset.is_query.all() or not dataset.is_query.any():
            raise DataError(
                f"{dataset.name}: {np.count_nonzero(dataset.is_query)} of {len(dataset)} images are queries; retrieval "
                "needs queries and a gallery"
            )
        return np.flatnonzero(dataset.is_query), np.flatnonzero(~dataset.is_query)
    keys = np.stack([dataset.identities, dataset.cameras], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    queries = np.sort(first)
    gallery = np.setdiff1d(np.arange(len(dataset)), queries)
    if not gallery.size:
        raise DataError(
            f"{dataset.name}: every image is the only one of its identity and camera; retrieval needs several"
        )
    return queries, gallery


def draw_pairs(identities: Indices, *, folds: int = 10, most: int = 6000, seed: int = 0) -> Indices:
    """Balanced verification pairs int64 [P, 3] (image, image, 1 for the same identity), laid out fold by fold.

    Args:
        identities: int64 [N].
        folds: Number of folds; each has as many pairs of one identity as of two.
        most: Largest number of pairs.
        seed: Seeds the draw.

    Raises:
        DataError: fewer pairs of one identity than folds.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(identities, kind="stable")
    places = np.arange(len(order))
    # Sorted by identity, place p makes pairs with the later places of its identity, and with all places after those.
    ends = np.searchsorted(identities[order], identities[order], side="right")
    same, different = _Pairs(order, places + 1, ends), _Pairs(order, ends, np.full_like(ends, len(order)))
    per_fold = min(len(same), len(different), most // 2) // folds
    if per_fold == 0:
        raise DataError(
            f"verification: {len(same)} pairs of one identity; at least {folds} are needed for {folds} folds"
        )
    total = per_fold * folds
    drawn = [pairs.draw(total, rng).reshape(folds, per_fold, 2) for pairs in (same, different)]
    flags = np.repeat([[1, 0]], per_fold, axis=1).repeat(folds, axis=0)
    return np.concatenate([np.concatenate(drawn, axis=1), flags[..., None]], axis=2).reshape(-1, 3)


class _Pairs:
    """All pairs of a place p of `order` [N] with the places `starts[p]` to `ends[p]`, counted but not listed."""

    def __init__(self, order: Indices, starts: Indices, ends: Indices) -> None:
        self._order, self._starts = order, starts
        self._before = np.concatenate([[0], np.cumsum(ends - starts)])

    def __len__(self) -> int:
        return int(self._before[-1])

    def draw(self, count: int, rng: np.random.Generator) -> Indices:
        """`count` different pairs of images [count, 2], all equally likely."""
        total = len(self)
        few = total <= _MOST_TO_SHUFFLE
        numbers = rng.permutation(total)[:count] if few else rng.choice(total, count, replace=False)
        first = np.searchsorted(self._before, numbers, side="right") - 1
        second = self._starts[first] + numbers - self._before[first]
        return np.sort(self._order[np.stack([first, second], axis=1)], axis=1)


def has_cameras(dataset: Dataset) -> bool:
    """Whether the camera of every image is known."""
    return bool((dataset.cameras != UNKNOWN_CAMERA).all())
