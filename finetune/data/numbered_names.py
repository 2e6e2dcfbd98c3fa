"""Names of images that differ in a number, made when one is needed: millions of strings would need gigabytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["NumberedNames"]


@dataclass(frozen=True, eq=False)
class NumberedNames(Sequence[str]):
    """`PREFIX:NUMBER` for each of `numbers` [N]."""

    prefix: str
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice | NDArray[np.int64]) -> NumberedNames: ...

    def __getitem__(self, index: int | slice | NDArray[np.int64]) -> str | NumberedNames:
        if isinstance(index, slice | np.ndarray):
            return NumberedNames(self.prefix, self.numbers[index])
        return f"{self.prefix}:{self.numbers[index]}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NumberedNames):
            return NotImplemented
        return self.prefix == other.prefix and np.array_equal(self.numbers, other.numbers)

    __hash__ = None  # type: ignore[assignment]
