"""Work over blocks of rows on all cores, with a report of what is done.

NumPy lets go of the interpreter's lock inside its loops, so threads suffice, and nothing is copied between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..processes.cores import available_cores

__all__ = ["Progress", "available_cores", "blocks", "no_progress", "on_all_cores"]

S = TypeVar("S")
T = TypeVar("T")

Progress = Callable[[str, int, int], object]
"""Called with what is done, how much of it, and how much there is in all."""

_CELLS = 1 << 23
"""Cells of a block of distances: 32 MB of float32, so that blocks of any gallery take the same memory."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Consecutive rows of a matrix [rows, columns], so many at a time that a block is small."""
    step = max(1, min(rows, _CELLS // max(columns, 1)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def on_all_cores(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`function` of each item, in their order; several at a time."""
    listed = list(items)
    if len(listed) == 1 or available_cores() == 1:
        return [function(item) for item in listed]
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, listed))
