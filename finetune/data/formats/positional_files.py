"""Files that are read at any position: opened when needed, with a limited number kept open."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

__all__ = ["PositionalFiles"]

_MOST_OPEN = 64


class PositionalFiles:
    """Reads by position, so threads and forked workers can share it; a pickled copy opens the files again."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open = lru_cache(_MOST_OPEN)(_OpenFile)

    def __reduce__(self) -> tuple[type[PositionalFiles], tuple[tuple[Path, ...]]]:
        return PositionalFiles, (self.paths,)

    def read(self, number: int, size: int, offset: int) -> bytes:
        """`size` bytes of file number `number` from byte `offset`, fewer at its end.

        Raises:
            OSError: the file cannot be opened or read.
        """
        # Held while it is read: another thread may push it out of the cache, and the last reference closes it.
        file = self._open(self.paths[number])
        return os.pread(file.descriptor, size, offset)


class _OpenFile:
    """Closed with its last reference, which may be after it left the cache."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
