"""Embeddings as unit vectors for the metrics; NaN and infinity are refused, for they would be ranked like numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import GateError

__all__ = ["refuse_non_finite", "unit_rows"]

Floats = NDArray[np.float32]


def unit_rows(embeddings: Floats) -> Floats:
    """Embeddings float32 [N, D] divided by their Euclidean lengths; a row of zeros stays zero.

    Raises:
        GateError: some hold NaN or infinity.
    """
    refuse_non_finite(embeddings)
    # in float64, for the squares of large float32 values overflow
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
    unit: Floats = (embeddings / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)
    return unit


def refuse_non_finite(embeddings: Floats) -> None:
    """Refuse embeddings [N, D] that no metric can rank.

    Raises:
        GateError: some hold NaN or infinity.
    """
    broken = ~np.isfinite(embeddings).all(axis=1)
    if broken.any():
        raise GateError(
            f"evaluation: {int(broken.sum())} of {len(embeddings)} embeddings hold NaN or infinity, which no metric "
            "can rank; the weights have diverged or overflow in this precision: lower optimizer.lr, or evaluate in fp32"
        )
