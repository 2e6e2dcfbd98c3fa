"""Groups of items by their mean similarity, and the nearest group of each, without a matrix of all pairs.

The mean dot product of all pairs of two groups is the dot product of the groups' sums over the product of their sizes,
so the vectors are enough. Each group keeps a list of those nearest to it and a bound that no other group exceeds. Both
outlive merges: a group made of some that are not on the list is, as the mean of them, not above the bound; one with a
member on the list is found through that member. The list of a merged group is that of both, its bound their mean.
A group is compared with all others again only when its list no longer holds one at or above the bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .cannot_link import apart_from

__all__ = ["NearestGroups"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Values = NDArray[np.float64]

_LISTED = 50
"""Nearest groups that are kept of each group."""
_BLOCK = 256
"""Groups that are compared with all others at a time."""


class NearestGroups:
    """N items, each a group of its own at first; a group is called by its lowest item."""

    def __init__(self, vectors: Floats, apart: Integers) -> None:
        """From vectors float32 [N, D] of at most unit length, and pairs int64 [P, 2] that are never joined."""
        count = len(vectors)
        self.sizes = np.ones(count, dtype=np.int64)
        """Items of each group; 0 of one that went into another."""
        self.bounds = np.full(count, -np.inf)
        """No group that is not on the list of a group is more similar to it than this."""
        self._sums = vectors.astype(np.float64)
        self._of = np.arange(count)
        self._members = [np.array([item]) for item in range(count)]
        self._near: list[Integers] = [np.zeros(0, dtype=np.int64)] * count
        self._apart = apart_from(apart, count)
        self._marked = np.zeros(count, dtype=np.bool_)
        # of a float32 dot product of D numbers, and of rounding both vectors to float32 (Higham 2002, section 3.1)
        self._error = (vectors.shape[1] + 2) * 2.0**-24
        self._rows = np.arange(count)
        self._means = np.array(vectors, dtype=np.float32)  # a copy, which merges write into

    def compare_all(self) -> Values:
        """List the nearest groups of every group; the result [N] is not below its largest similarity."""
        most = np.full(len(self.sizes), -np.inf)
        for start in range(0, len(self.sizes), _BLOCK):
            groups = np.arange(start, min(start + _BLOCK, len(self.sizes)))
            most[groups] = self._compare(groups) + self._error
        return most

    def compare(self, group: int) -> None:
        """List the nearest groups of one group again."""
        if 2 * np.count_nonzero(self.sizes) < len(self._rows):
            self._rows = np.flatnonzero(self.sizes)
            self._means = (self._sums[self._rows] / self.sizes[self._rows, None]).astype(np.float32)
        self._compare(np.array([group]))

    def _compare(self, groups: Integers) -> Values:
        """Renew the lists of some groups; their largest similarity in float32."""
        places = np.searchsorted(self._rows, groups)
        values = self._means[places] @ self._means.T
        values[:, self.sizes[self._rows] == 0] = -np.inf
        values[np.arange(len(groups)), places] = -np.inf
        for row, group in enumerate(groups.tolist()):
            if len(self._apart[group]):
                banned = np.searchsorted(self._rows, self._of[self._apart[group]])
                values[row, banned] = -np.inf
        total = values.shape[1]
        if total <= _LISTED:
            chosen = np.broadcast_to(np.arange(total), values.shape)
            self.bounds[groups] = -np.inf
        else:
            order = np.argpartition(values, total - _LISTED - 1, axis=1)[:, total - _LISTED - 1 :]
            chosen = order[:, 1:]
            self.bounds[groups] = values[np.arange(len(groups)), order[:, 0]].astype(np.float64) + self._error
        for row, group in enumerate(groups.tolist()):
            own = chosen[row]
            self._near[group] = self._rows[own[values[row, own] > -np.inf]]
        largest: Values = values.max(axis=1, initial=-np.inf).astype(np.float64)
        return largest

    def nearest(self, group: int) -> tuple[float, int]:
        """The largest similarity of a group with one on its list, and that one, the lowest of equal ones.

        -inf and -1 where it may be joined with none of its list.
        """
        near = np.unique(self._of[self._near[group]])
        self._marked[self._of[self._apart[group]]] = True
        near = near[~self._marked[near]]
        self._marked[self._of[self._apart[group]]] = False
        self._near[group] = near
        if not len(near):
            return -np.inf, -1
        values: Values = (self._sums[near] @ self._sums[group]) / (self.sizes[near] * self.sizes[group])
        best = int(values.argmax())
        if len(near) > 2 * _LISTED:
            order = np.argsort(-values, kind="stable")
            self._near[group] = near[order[:_LISTED]]
            self.bounds[group] = max(self.bounds[group], values[order[_LISTED]])
        return float(values[best]), int(near[best])

    def join(self, low: int, high: int) -> None:
        """Put the group `high` into the group `low`."""
        one, other = self.sizes[low], self.sizes[high]
        self.bounds[low] = (one * self.bounds[low] + other * self.bounds[high]) / (one + other)
        self.sizes[low], self.sizes[high] = one + other, 0
        self._sums[low] += self._sums[high]
        self._of[self._members[high]] = low
        self._members[low] = np.concatenate([self._members[low], self._members[high]])
        near = np.concatenate([self._near[low], self._near[high]])
        self._near[low] = near[self._of[near] != low]
        if len(self._apart[high]):
            self._apart[low] = np.unique(self._of[np.concatenate([self._apart[low], self._apart[high]])])
        empty = np.zeros(0, dtype=np.int64)
        self._members[high] = self._near[high] = self._apart[high] = empty
        place = np.searchsorted(self._rows, low)
        self._means[place] = self._sums[low] / self.sizes[low]
