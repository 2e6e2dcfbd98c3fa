"""k-reciprocal re-ranking of a retrieval: images are near when they share mutual nearest neighbours.

Zhong, Zheng, Cao, Li: "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, arXiv:1701.08398.
The final distance is (1 - lambda) Jaccard + lambda d, where d is the squared distance divided by the row's largest.
The result for one query depends on all the others, so re-ranked metrics cannot be compared with plain ones.

An image's encoding is zero but for some hundred neighbours, so encodings are kept as lists: memory grows with the
number of images, not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..cores import Progress, no_progress, on_all_cores
from .neighbour_lists import find_neighbours, squared_distances
from .sparse_rows import SparseRows, mean_of_rows

__all__ = ["RerankedDistances", "reranked_distances"]

_ROWS = 1 << 11
"""Images whose neighbours are compared at a time: an array of k1 * k1 / 2 * k1 bytes for each, 20 MB in all."""

Floats = NDArray[np.float32]
Neighbours = NDArray[np.int32]
Flags = NDArray[np.bool_]


def reranked_distances(query: Floats, gallery: Floats, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Floats:
    """All distances float32 [Q, G] at once, arguments as of `RerankedDistances`."""
    return RerankedDistances(query, gallery, k1=k1, k2=k2, weight=weight).of(slice(0, len(query)))


class RerankedDistances:
    """Distances between Q queries and G gallery images, of unit length or not; smaller is nearer."""

    def __init__(
        self,
        query: Floats,
        gallery: Floats,
        *,
        k1: int = 20,
        k2: int = 6,
        weight: float = 0.3,
        report: Progress = no_progress,
    ) -> None:
        """Encode all images.

        Args:
            query: Embeddings float32 [Q, D].
            gallery: Embeddings float32 [G, D].
            k1: Nearest neighbours among which reciprocal ones are looked for.
            k2: Nearest neighbours, the image included, whose encodings are averaged; 1 averages nothing.
            weight: lambda, the share of the original distance.
            report: Called with what is done.
        """
        self._rows, self._queries, self._weight = np.concatenate([query, gallery]), len(query), weight
        self._squares = np.einsum("nd,nd->n", self._rows, self._rows)
        self._lists = find_neighbours(self._rows, max(k1 + 1, k2), report)
        encoded = self._encoded(k1, report)
        self._encodings = mean_of_rows(encoded, self._lists.order[:, :k2]) if k2 > 1 else encoded
        self._columns = self._encodings.below(len(query)).transposed()

    def of(self, rows: slice) -> Floats:
        """Distances float32 [n, G] of consecutive queries."""
        distances = self._scaled_distances(rows)
        start = rows.start

        def blend(part: slice) -> None:
            for number in range(part.start, part.stop):
                jaccard = self.jaccard_of(start + number)
                distances[number] = (1 - self._weight) * jaccard + self._weight * distances[number]

        on_all_cores(blend, list(_parts(len(distances), 64)))
        return distances

    def _scaled_distances(self, rows: slice) -> Floats:
        gallery = slice(self._queries, None)
        distances = squared_distances(
            self._rows[rows], self._rows[gallery], self._squares[rows], self._squares[gallery]
        )
        distances /= self._lists.largest[rows, None]
        return distances

    def _encoded(self, k1: int, report: Progress) -> SparseRows:
        """The encoding of each image: exp(-d) of its expanded k-reciprocal neighbours, adding up to 1."""
        images, neighbours = _expanded_neighbours(self._lists.order, k1, report)
        values = np.empty(len(images), dtype=np.float32)
        parts = list(_parts(len(images), 1 << 14))

        def measure(part: slice) -> None:
            one, other = images[part], neighbours[part]
            products = np.einsum("pd,pd->p", self._rows[one], self._rows[other])
            distances = np.maximum(self._squares[one] + self._squares[other] - 2 * products, 0)
            values[part] = np.exp(-distances / self._lists.largest[one])

        on_all_cores(measure, parts)
        return SparseRows.of(images, neighbours, values, len(self._rows)).adding_to_one()

    def jaccard_of(self, image: int) -> Floats:
        """Jaccard distances float32 [G] of one of the Q + G images from the gallery, 0 from itself.

        1 - |min| / |max| of its encoding and the gallery's. Encodings add up to 1, so that |max| is 2 - |min|.
        """
        places, own = self._encodings.row(image)
        images, shared = self._columns.smaller_values(places, own)
        total = np.bincount(images, weights=shared, minlength=len(self._rows) - self._queries)
        distances: Floats = (1 - total / (2 - total)).astype(np.float32)
        return distances


def _expanded_neighbours(order: Neighbours, k1: int, report: Progress) -> tuple[Neighbours, Neighbours]:
    """Image and neighbour of all k1-reciprocal pairs, and of those that expansion adds: two int32 [n], by image.

    Expansion adds the k1/2-reciprocal neighbours of a neighbour that lie among the image's own for over two thirds.
    """
    total = len(order)
    near, half = order[:, : k1 + 1], order[:, : round(k1 / 2) + 1]
    mutual, half_mutual = _mutual(near), _mutual(half)
    keys = []
    for part in _parts(total, _ROWS):
        own = np.where(mutual[part], near[part], -1)
        theirs = np.where(half_mutual, half, -1)[near[part]]  # [n, k1 + 1, k1 / 2 + 1]
        valid = (theirs >= 0) & mutual[part][:, :, None]
        common = valid & (theirs[..., None] == own[:, None, None, :]).any(axis=-1)
        taken = valid & (3 * common.sum(axis=-1) > 2 * valid.sum(axis=-1))[..., None]
        image = np.arange(part.start, part.stop, dtype=np.int64) * total
        added = np.broadcast_to(image[:, None, None], theirs.shape)[taken] + theirs[taken]
        plain = np.broadcast_to(image[:, None], own.shape)[mutual[part]] + own[mutual[part]]
        keys.append(np.unique(np.concatenate([plain, added])))
        report("comparing neighbours", part.stop, total)
    images, neighbours = np.divmod(np.concatenate(keys), total)
    return images.astype(np.int32), neighbours.astype(np.int32)


def _mutual(lists: Neighbours) -> Flags:
    """Which of the neighbours [N, K] have the image among their own, bool [N, K]."""
    found = np.empty(lists.shape, dtype=bool)
    for part in _parts(len(lists), _ROWS):
        images = np.arange(part.start, part.stop, dtype=np.int32)
        found[part] = (lists[lists[part]] == images[:, None, None]).any(axis=-1)
    return found


def _parts(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
