"""A matrix that is zero almost everywhere, as lists of what is not zero (compressed sparse rows)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseRows", "mean_of_rows"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Columns = NDArray[np.int32]


@dataclass(frozen=True)
class SparseRows:
    """N rows of values by their columns."""

    starts: Indices
    """Where each row starts in the lists, and where the last ends, int64 [N + 1]."""
    columns: Columns
    """Column of each value, ascending within a row, int32 [n]."""
    values: Floats
    """float32 [n]."""

    @classmethod
    def of(cls, rows: Columns, columns: Columns, values: Floats, count: int) -> SparseRows:
        """From lists [n] that are in the order of the rows; `count` rows."""
        starts = np.searchsorted(rows, np.arange(count + 1))
        return cls(starts, columns, values)

    @property
    def lengths(self) -> Indices:
        """Values of each row, int64 [N]."""
        return np.diff(self.starts)

    def row(self, number: int) -> tuple[Columns, Floats]:
        """Columns and values of one row."""
        part = slice(self.starts[number], self.starts[number + 1])
        return self.columns[part], self.values[part]

    def adding_to_one(self) -> SparseRows:
        """Each row divided by its sum; a row without values stays so."""
        lengths = self.lengths
        rows = np.repeat(np.arange(len(lengths)), lengths)
        sums = np.bincount(rows, weights=self.values, minlength=len(lengths))
        return SparseRows(self.starts, self.columns, (self.values / sums[rows]).astype(np.float32))

    def below(self, first: int) -> SparseRows:
        """The rows from number `first` on."""
        start = self.starts[first]
        return SparseRows(self.starts[first:] - start, self.columns[start:], self.values[start:])

    def transposed(self) -> SparseRows:
        """Columns as rows: as many as there are, up to the largest that has a value."""
        rows = np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), self.lengths)
        order = np.argsort(self.columns, kind="stable")
        count = int(self.columns.max(initial=-1)) + 1
        return SparseRows.of(self.columns[order], rows[order], self.values[order], count)

    def smaller_values(self, rows: Columns, bounds: Floats) -> tuple[Columns, Floats]:
        """All values of some rows, none above the row's bound, with their columns: two lists [m]."""
        known = rows < len(self.starts) - 1
        rows, bounds = rows[known], bounds[known]
        starts, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        places = _joined_ranges(starts, lengths)
        return self.columns[places], np.minimum(self.values[places], np.repeat(bounds, lengths))


def mean_of_rows(matrix: SparseRows, chosen: Columns) -> SparseRows:
    """Rows that are each the mean of some rows: `chosen` int32 [M, k] gives M rows."""
    per_row = chosen.shape[1]
    count = len(matrix.starts) - 1
    parts = []
    for start in range(0, len(chosen), 1 << 12):
        asked = chosen[start : start + (1 << 12)]
        lengths = matrix.lengths[asked]
        places = _joined_ranges(matrix.starts[asked].ravel(), lengths.ravel())
        row = np.repeat(np.arange(len(asked), dtype=np.int64), lengths.sum(axis=1))
        keys, group = np.unique(row * count + matrix.columns[places], return_inverse=True)
        sums = np.bincount(group, weights=matrix.values[places]) / per_row
        rows, columns = np.divmod(keys, count)
        parts.append(((rows + start).astype(np.int32), columns.astype(np.int32), sums.astype(np.float32)))
    rows_, columns_, values_ = (np.concatenate(lists) for lists in zip(*parts, strict=True))
    return SparseRows.of(rows_, columns_, values_, len(chosen))


def _joined_ranges(starts: Indices, lengths: Indices) -> Indices:
    """The numbers of all ranges one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Indices = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers
