"""Cells to compare: the one that alpha says, others drawn from alpha, and others drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...converters.zoo.cells.drawing import random_genotype
from ...converters.zoo.cells.genotype import Genotype
from ...converters.zoo.cells.parsing import parse_genotype
from ..config.search import SearchConfig

__all__ = ["Candidate", "cell_of", "drawn_cells", "random_cells"]

Shares = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weights of operations [edges, operations] in normal and reduction cells."""

_TRIES = 100
"""Draws per cell that is wanted, after which fewer different ones have to do."""


@dataclass(frozen=True)
class Candidate:
    """A cell, and where it comes from: argmax, perturbation, drawn or random."""

    genotype: Genotype
    origin: str


def cell_of(search: SearchConfig, shares: Shares, *, most_skips: int | None = None) -> Genotype:
    """The cell that weights of operations say, with at most `most_skips` skips in its normal cell.

    Raises:
        InputError: the weights are not finite.
    """
    normal, reduce = shares
    return parse_genotype(search.space(), normal, reduce, most_skips=most_skips)


def drawn_cells(search: SearchConfig, shares: Shares, first: Genotype, count: int, seed: int) -> list[Candidate]:
    """Up to `count` different cells besides `first`, each operation drawn in proportion to its share on its edge.

    A draw is the argmax of log share + Gumbel noise, by which the edges of a node are compared as well.
    """
    rng = np.random.default_rng([seed, 1])

    def once() -> Genotype:
        normal, reduce = (np.exp(np.log(np.maximum(share, 1e-30)) + rng.gumbel(size=share.shape)) for share in shares)
        return cell_of(search, (normal, reduce), most_skips=search.most_skips)

    return [Candidate(each, "drawn") for each in _different(search, once, [first], count)]


def random_cells(search: SearchConfig, count: int, seed: int) -> list[Candidate]:
    """Up to `count` different cells, all with the same probability, of those with at most `search.most_skips` skips."""
    rng = np.random.default_rng([seed, 2])

    def once() -> Genotype:
        return random_genotype(search.space(), rng)

    return [Candidate(each, "random") for each in _different(search, once, [], count)]


def _different(search: SearchConfig, once: Callable[[], Genotype], known: list[Genotype], count: int) -> list[Genotype]:
    """Different cells of repeated draws, also different from those that are known."""
    seen = {(each.normal, each.reduce) for each in known}
    found: list[Genotype] = []
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        cell = once()
        if search.most_skips is not None and cell.skips["normal"] > search.most_skips:
            continue
        if (cell.normal, cell.reduce) not in seen:
            seen.add((cell.normal, cell.reduce))
            found.append(cell)
    return found
