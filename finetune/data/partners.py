"""People that PK batches can hold: identities with two images or more. The others are left out, and counted.

They are left out of the data set itself, so that the number of identities, the classes of the losses and the count in
the log are those that are trained on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .dataset import Dataset

__all__ = ["with_partners"]


def with_partners(dataset: Dataset) -> Dataset:
    """The images of identities with two images or more, and a note on the others; the same if all have or none has."""
    images = np.bincount(dataset.identities)
    kept = images[dataset.identities] > 1
    if kept.all() or not kept.any():
        return dataset
    left_out = int(np.count_nonzero(~kept))
    note = f"{left_out} identities with one image left out, for data.sampler pk takes two or more of each"
    return replace(dataset.subset(np.flatnonzero(kept)), notes=(*dataset.notes, note))
