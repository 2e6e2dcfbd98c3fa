"""A part of a data set, for a quick look: whole identities, or evenly spaced pairs of a list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data.dataset import NOBODY, Dataset

__all__ = ["limit_dataset"]


def limit_dataset(dataset: Dataset, most: int) -> Dataset:
    """At most about `most` images of whole identities in a fixed random order, or `most` pairs of a list.

    An identity that would go beyond `most` is the last; distractors keep their share. A note says that the figures are
    of a smaller task: fewer people to be mistaken for make it easier.
    """
    if dataset.pairs is not None:
        if len(dataset.pairs) <= most:
            return dataset
        chosen = dataset.pairs[np.linspace(0, len(dataset.pairs) - 1, most).round().astype(np.int64)]
        images, places = np.unique(chosen[:, :2], return_inverse=True)
        limited = replace(dataset, pairs=None).subset(images)
        pairs = np.concatenate([places.reshape(-1, 2), chosen[:, 2:]], axis=1)
        note = f"limited to {most} of {len(dataset.pairs)} pairs"
        return replace(limited, pairs=pairs, notes=(*dataset.notes, note))
    if len(dataset) <= most:
        return dataset
    rng = np.random.default_rng(0)
    order = rng.permutation(dataset.identity_count)
    counts = np.bincount(dataset.identities[dataset.identities != NOBODY], minlength=dataset.identity_count)
    nobody = np.flatnonzero(dataset.identities == NOBODY)
    kept_nobody = rng.permutation(nobody)[: round(len(nobody) * most / len(dataset))]
    taken = int(np.searchsorted(np.cumsum(counts[order]), most - len(kept_nobody))) + 1
    chosen_images = np.flatnonzero(np.isin(dataset.identities, order[:taken]))
    limited = dataset.subset(np.sort(np.concatenate([chosen_images, kept_nobody])))
    note = (
        f"limited to {len(limited)} of {len(dataset)} images, {limited.identity_count} of {dataset.identity_count} "
        "identities: figures are of an easier task than the whole"
    )
    return replace(limited, notes=(*dataset.notes, note))
