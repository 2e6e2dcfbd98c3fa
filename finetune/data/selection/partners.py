"""Leaves people out who have too few images, and counts them: PK batches hold identities with two or more.

They are left out of the data set itself, so that the number of identities, the classes of the losses and the count in
the log are those that are trained on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ....errors import DataError
from ..dataset import Dataset
from .positions import renumbered

__all__ = ["with_images", "with_partners"]


def with_partners(dataset: Dataset) -> Dataset:
    """The images of identities with two images or more, and a note on the others; the same if all have or none has."""
    images = np.bincount(dataset.identities)
    kept = images[dataset.identities] > 1
    if kept.all() or not kept.any():
        return dataset
    left_out = int(np.count_nonzero(~kept))
    note = f"{left_out} identities with one image left out, for data.sampler pk takes two or more of each"
    return replace(dataset.subset(np.flatnonzero(kept)), notes=(*dataset.notes, note))


def with_images(dataset: Dataset, fewest: int) -> Dataset:
    """The images of identities with `fewest` or more, and a note on the others; the same if all have so many.

    Those that are left keep the order of their numbers.

    Raises:
        DataError: no identity has so many.
    """
    images = np.bincount(dataset.identities)
    kept = images >= fewest
    if kept.all():
        return dataset
    if not kept.any():
        raise DataError(f"{dataset.name}: no identity has data.min_images {fewest} images; the most is {images.max()}")
    lost, lost_images = int(np.count_nonzero(~kept)), int(images[~kept].sum())
    note = f"{lost} identities of {lost_images} images left out, for they have fewer than data.min_images {fewest}"
    chosen = np.flatnonzero(kept[dataset.identities])
    return replace(renumbered(dataset.subset(chosen), dataset.identities[chosen]), notes=(*dataset.notes, note))
