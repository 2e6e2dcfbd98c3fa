"""`SearchSpace`: which networks of repeated cells a search chooses among.

A network is a stem, `cells` cells and an embedding head. All normal cells share one wiring, and so do the two
reduction cells, which halve the height and width and double the channels. A cell has two inputs, the outputs of the two
cells before it, and `nodes` nodes; node i may read both inputs and the i nodes before it, each along an edge that
carries one operation. Edges are numbered node by node, those of one node by their input.

Liu, Simonyan, Yang: "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055; with the part-aware
operation of Quan et al.: "Auto-ReID: Searching for a Part-aware ConvNet for Person Re-Identification", ICCV 2019,
arXiv:1903.09776.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import InputError, nearest

__all__ = ["OPERATIONS", "PARTS", "PLANTED", "STEMS", "CellPlan", "SearchSpace"]

OPERATIONS = ("none", "skip", "max3", "avg3", "sep3", "dil3", "part")
"""The operations of the re-identification space; their order is part of the genotype's format."""

PLANTED = ("noise",)
"""Operations that are bad by design, for tests and benchmarks that check whether a search avoids them."""

PARTS = 4
"""Horizontal strips of the operation `part`."""

STEMS = {"stride4": 4, "stride1": 1}
"""Stem -> by what it divides the height and width of the image."""


_RANGES = {
    "cells": (3, 100),
    "nodes": (1, 16),
    "channels": (2, 1024),
    "embedding_size": (1, 1 << 16),
    "inputs_per_node": (1, 17),
}
"""Least and most of each number; a file of a cell cannot ask for more memory than these need."""


@dataclass(frozen=True)
class CellPlan:
    """One cell of a network: the channels that it reads and makes, and where it halves."""

    before_last: int
    """Channels of the output of the cell before the previous one."""
    last: int
    """Channels of the output of the previous cell."""
    channels: int
    """Channels of each of its nodes."""
    reduces: bool
    follows_reduction: bool
    """Its first input has twice the height and width of its second."""


@dataclass(frozen=True)
class SearchSpace:
    """The networks that a search chooses among.

    Raises:
        InputError: a value outside its range, an unknown operation, or no operation that computes something.
    """

    operations: tuple[str, ...] = OPERATIONS
    cells: int = 3
    """At least 3; cells number cells//3 and 2*cells//3, from 0, are reduction cells."""
    nodes: int = 4
    channels: int = 16
    """Channels of each node before the first reduction."""
    stem: str = "stride4"
    embedding_size: int = 512
    inputs_per_node: int = 2
    """Edges that each node of a found cell keeps; a node with fewer keeps all."""

    def __post_init__(self) -> None:
        _check_operations(self.operations)
        if self.stem not in STEMS:
            raise InputError(f"search space: unknown stem {self.stem!r}; {nearest(str(self.stem), STEMS)}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                why = ", because two of them are reduction cells" if name == "cells" else ""
                numbers = f"a whole number from {least} to {most}{why}"
                raise InputError(f"search space: {name} takes {numbers}, got {value!r:.60}")

    @property
    def edges(self) -> int:
        """Edges of one cell: the rows of its weights [edges, operations]."""
        return sum(2 + node for node in range(self.nodes))

    @property
    def node_edges(self) -> tuple[range, ...]:
        """Node -> the numbers of its edges; the i-th of them reads state i."""
        starts = [sum(2 + earlier for earlier in range(node)) for node in range(self.nodes)]
        return tuple(range(start, start + 2 + node) for node, start in enumerate(starts))

    @property
    def plans(self) -> tuple[CellPlan, ...]:
        """The cells, first to last."""
        return cell_plans(self.cells, self.nodes, self.channels)

    @property
    def smallest_height(self) -> int:
        """The lowest image, in pixels, that every operation of the space takes."""
        return smallest_height(self.stem) if "part" in self.operations else 1

    def check_height(self, height: int) -> None:
        """Refuse images in whose last cell `part` finds fewer rows than strips.

        Raises:
            InputError: naming the lowest height that fits.
        """
        if height < self.smallest_height:
            raise InputError(
                f"images {height} pixels high leave the last cell fewer than {PARTS} rows, one for each part of the "
                f"operation part; use images at least {self.smallest_height} high, or search without part"
            )


def cell_plans(cells: int, nodes: int, channels: int) -> tuple[CellPlan, ...]:
    """The cells of a network, first to last; the stem makes `channels` channels."""
    reductions = (cells // 3, 2 * cells // 3)
    plans: list[CellPlan] = []
    before_last, last, reduced = channels, channels, False
    for number in range(cells):
        reduces = number in reductions
        channels *= 2 if reduces else 1
        plans.append(CellPlan(before_last, last, channels, reduces, reduced))
        before_last, last, reduced = last, nodes * channels, reduces
    return tuple(plans)


def smallest_height(stem: str) -> int:
    """The lowest image, in pixels, of which two halvings behind the stem leave one row per part.

    Each halving rounds up, so 4 rows are left of 13 ones.
    """
    rows = PARTS
    halvings = 2 + {4: 2, 1: 0}[STEMS[stem]]
    for _ in range(halvings):
        rows = 2 * rows - 1
    return rows


def _check_operations(operations: tuple[str, ...]) -> None:
    known = (*OPERATIONS, *PLANTED)
    for operation in operations:
        if operation not in known:
            raise InputError(f"search space: unknown operation {operation!r}; {nearest(str(operation), known)}")
    if len(set(operations)) < len(operations):
        raise InputError(f"search space: an operation is named twice in {', '.join(operations)}")
    if not set(operations) - {"none"}:
        raise InputError("search space: needs an operation other than none; a cell of nothing computes nothing")
