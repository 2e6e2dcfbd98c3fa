"""Which nodes must stay in float32 when a narrower model misses its gate: one search for 16 bits and for 8.

The graph is cut into overlapping blocks, which are ranked by how much their return to float32 helps and returned in
that order until the gate holds (ranked anew where the next one no longer helps); what was returned without need is
dropped by halving. How a
model is narrowed and measured is the caller's business: the search only names nodes and reads cosines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import onnx

from ...errors import InputError
from ..runtime.parity import Parity

__all__ = ["Trial", "named_nodes", "return_blocks"]

BLOCKS = 16
"""Into how many runs of nodes the graph is cut for ranking."""
DROPS = 32
"""How often it is tried to take nodes back once the gate holds; what remains is few nodes too many."""


class Trial(Protocol):
    """One narrowed model: which nodes it keeps in float32, and how far its outputs are from the reference."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the nodes in float32."""

    @property
    def parity(self) -> Parity:
        """Against the reference."""


T = TypeVar("T", bound=Trial)


def return_blocks(
    attempt: Callable[[tuple[str, ...]], T],
    nodes: Sequence[str],
    start: T,
    min_cosine: float,
    *,
    largest_share: float,
    cost: Callable[[Sequence[str]], float] = len,
) -> T:
    """The trial with few `nodes` in float32 that holds `min_cosine`; the best one found where none does.

    Args:
        attempt: narrows all but the named nodes and measures.
        nodes: names of the nodes that may be returned, in graph order.
        start: the trial that missed the gate; what it keeps stays kept.
        min_cosine: the gate.
        largest_share: of `nodes`; beyond it the search gives up.
        cost: of returning some nodes; blocks are ranked by what a unit of it brings.
    """
    names = [name for name in nodes if name not in start.kept]
    size = max(1, len(names) // BLOCKS)
    # Overlapping, so that neighbours that only help together share a block.
    blocks = [tuple(names[index : index + 2 * size]) for index in range(0, len(names), size)]
    best, ranked = start, False
    while blocks and best.parity.min_cosine < min_cosine and len(best.kept) <= largest_share * len(names):
        if not ranked:
            trials = {block: attempt(_union(best.kept, block)) for block in blocks}
            gains = {block: trials[block].parity.mean_cosine - best.parity.mean_cosine for block in blocks}
            blocks.sort(key=lambda block: gains[block] / max(cost(block), 1), reverse=True)
            best, ranked = trials[blocks.pop(0)], True
        else:
            trial = attempt(_union(best.kept, blocks.pop(0)))
            # The ranking holds while its next block still helps; else another one may by now.
            ranked = trial.parity.mean_cosine > best.parity.mean_cosine
            best = trial
    return _without_idle(attempt, best, start.kept, min_cosine)


def named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, or a copy whose nodes all have names.

    Raises:
        InputError: two nodes share a name.
    """
    named = model
    if any(not node.name for node in model.graph.node):
        named = onnx.ModelProto()
        named.CopyFrom(model)
        for index, node in enumerate(named.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
    names = [node.name for node in named.graph.node]
    if len(set(names)) != len(names):
        raise InputError("node names are not unique, so none can be kept in float32; simplify the model first")
    return named


def _without_idle(attempt: Callable[[tuple[str, ...]], T], found: T, fixed: tuple[str, ...], min_cosine: float) -> T:
    """Return to the narrow type ever smaller runs of the kept nodes that the gate does not need."""
    best, left = found, DROPS
    length = (len(found.kept) - len(fixed) + 1) // 2
    while length >= 1 and best.parity.min_cosine >= min_cosine:
        free = [name for name in best.kept if name not in fixed]
        for index in range(0, len(free), length):
            if not left:
                return best
            left -= 1
            run = set(free[index : index + length])
            trial = attempt(tuple(name for name in best.kept if name not in run))
            if trial.parity.min_cosine >= min_cosine:
                best = trial
        length //= 2
    return best


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
