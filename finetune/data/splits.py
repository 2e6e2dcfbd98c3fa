"""Parts of a data set: by identity for training and held-out evaluation, query and gallery.

All depend on the labels and a seed alone, never on the order of files on disk or on time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .dataset import NOBODY, UNKNOWN_CAMERA, Dataset

__all__ = ["has_cameras", "query_and_gallery", "split_by_identity"]

Indices = NDArray[np.int64]


def split_by_identity(dataset: Dataset, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training part and held-out part; no identity is in both. `holdout`, 0..1, is the share of identities held out.

    Raises:
        DataError: either part would have fewer than two identities.
    """
    dataset = dataset.of_somebody()
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

    They are the data set's own, or the first image of each identity and camera is a query. Images of nobody are no
    queries; without fixed queries, images of an unknown camera are in neither part.

    Raises:
        DataError: there are no queries, or no image is left for the gallery.
    """
    if dataset.is_query is not None:
        if dataset.is_query.all() or not dataset.is_query.any():
            raise DataError(
                f"{dataset.name}: {np.count_nonzero(dataset.is_query)} of {len(dataset)} images are queries; retrieval "
                "needs queries and a gallery"
            )
        asked = dataset.is_query & (dataset.identities != NOBODY)
        return np.flatnonzero(asked), np.flatnonzero(~dataset.is_query)
    seen = np.flatnonzero((dataset.cameras != UNKNOWN_CAMERA) | ~has_cameras(dataset))
    asked = seen[dataset.identities[seen] != NOBODY]
    keys = np.stack([dataset.identities, dataset.cameras], axis=1)[asked]
    _, first = np.unique(keys, axis=0, return_index=True)
    queries = np.sort(asked[first])
    gallery = np.setdiff1d(seen, queries)
    if not gallery.size:
        raise DataError(
            f"{dataset.name}: every image is the only one of its identity and camera, so all are queries and none is "
            "left to find; say which are queries in a column `query` of a manifest, or leave the cameras out"
        )
    return queries, gallery


def has_cameras(dataset: Dataset) -> bool:
    """Whether the cameras of most images are known: a few odd file names do not change how a set is measured."""
    return bool(2 * np.count_nonzero(dataset.cameras != UNKNOWN_CAMERA) > len(dataset))
