"""Query expansion: each embedding is replaced by the weighted mean of its nearest ones.

Average query expansion of Chum et al., "Total Recall", ICCV 2007, with the weights cosine ** alpha of Radenovic,
Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", arXiv:1711.02512; as in fast-reid, gallery
images are expanded like queries, among the images of both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...embedding.unit_embeddings import unit_rows
from ..cores import Progress, no_progress
from .neighbour_lists import find_neighbours

__all__ = ["expanded_embeddings"]

Floats = NDArray[np.float32]

_ROWS = 1 << 12


def expanded_embeddings(
    query: Floats, gallery: Floats, count: int, power: float, report: Progress = no_progress
) -> tuple[Floats, Floats]:
    """Embeddings float32 [Q, D] and [G, D] after expansion: sum over the `count` nearest of max(cosine, 0)**power * x.

    Args:
        query: Embeddings [Q, D].
        gallery: Embeddings [G, D].
        count: Nearest images by cosine, the image itself included; 1 changes no direction.
        power: alpha; 0 weighs all alike.
        report: Called with what is done.
    """
    rows = np.concatenate([query, gallery])
    unit = unit_rows(rows)
    order = find_neighbours(unit, count, report).order
    expanded = np.empty_like(rows)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        cosines = np.einsum("nd,nkd->nk", unit[part], unit[order[part]])
        weights = np.maximum(cosines, 0) ** power
        expanded[part] = np.einsum("nk,nkd->nd", weights, rows[order[part]]) / order.shape[1]
    return expanded[: len(query)], expanded[len(query) :]
