"""Embeddings of people who do not exist, of the size and hardness that a benchmark wants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RetrievalSet", "simulated_images", "simulated_retrieval"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class RetrievalSet:
    """Unit embeddings and labels of queries [Q] and gallery [G]."""

    query: Floats
    gallery: Floats
    query_ids: Indices
    gallery_ids: Indices
    query_cameras: Indices
    gallery_cameras: Indices


def simulated_retrieval(queries: int, gallery: int, *, people: int = 750, seed: int = 0) -> RetrievalSet:
    """A set as Market-1501: 512 numbers an image, six cameras, one gallery image in six of nobody."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 512)).astype(np.float32)
    query_ids = rng.integers(0, people, queries)
    gallery_ids = np.where(rng.random(gallery) < 1 / 6, -1, rng.integers(0, people, gallery))

    def embeddings(identities: Indices) -> Floats:
        rows = 2.5 * rng.normal(size=(len(identities), 512)).astype(np.float32)
        rows[identities >= 0] += centres[identities[identities >= 0]]
        unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    return RetrievalSet(
        embeddings(query_ids),
        embeddings(gallery_ids),
        query_ids,
        gallery_ids,
        rng.integers(0, 6, queries),
        rng.integers(0, 6, gallery),
    )


def simulated_images(people: int, images: int, seed: int) -> tuple[Floats, Indices]:
    """Embeddings float32 [n, 32] and identities int64 [n]; some people are harder to know again than others."""
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(people), images)
    hardness = rng.uniform(0.6, 1.4, people)[identities, None]
    embeddings = rng.normal(size=(people, 32))[identities] + hardness * rng.normal(size=(len(identities), 32))
    return embeddings.astype(np.float32), identities
