"""Parts of a data set: by identity for training and held-out evaluation, query and gallery, pairs to verify.

All are functions of the labels and a seed, never of file order on disk or of time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .dataset import UNKNOWN_CAMERA, Dataset

__all__ = ["draw_pairs", "query_and_gallery", "split_by_identity"]

Indices = NDArray[np.int64]


def split_by_identity(dataset: Dataset, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training part and held-out part; no identity is in both. `holdout` is the share of identities held out.

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
    """Positions of queries and gallery: the data set's own, or the first image of each identity in each camera.

    Raises:
        DataError: no image is left for the gallery.
    """
    if dataset.is_query is not None:
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
    """Balanced verification pairs [P, 3] (image, image, 1 for the same identity), laid out fold by fold.

    Raises:
        DataError: too few same-identity pairs for one a fold.
    """
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(len(identities), 1)
    equal = identities[first] == identities[second]
    same, different = np.flatnonzero(equal), np.flatnonzero(~equal)
    per_fold = min(len(same), len(different), most // 2) // folds
    if per_fold == 0:
        raise DataError(
            f"verification: {len(same)} pairs of one identity; at least {folds} are needed for {folds} folds"
        )
    total = per_fold * folds
    same_parts = rng.permutation(same)[:total].reshape(folds, per_fold)
    different_parts = rng.permutation(different)[:total].reshape(folds, per_fold)
    order = np.concatenate([same_parts, different_parts], axis=1).reshape(-1)
    return np.stack([first[order], second[order], equal[order].astype(np.int64)], axis=1)


def has_cameras(dataset: Dataset) -> bool:
    """Whether every image knows its camera."""
    return bool((dataset.cameras != UNKNOWN_CAMERA).all())
