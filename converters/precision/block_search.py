"""Search for the nodes that must go back to float32 when a model in reduced precision (16 or 8 bits) misses its gate.

1. The graph is cut into overlapping blocks of nodes.
2. Blocks are ranked by the accuracy gained per cost when the block alone goes back to float32.
3. Blocks go back in that order until the gate passes; they are ranked again when the next one does not help.
4. Runs of nodes that the gate does not need are converted again, longest runs first, halving the length.

The caller converts and measures; the search only names nodes and reads cosines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import onnx

from ...errors import InputError
from ..runtime.parity import Parity

__all__ = ["Trial", "named_nodes", "return_blocks"]

BLOCKS = 16
"""Number of blocks into which the graph is cut."""
DROPS = 32
"""Largest number of trials in step 4."""


class Trial(Protocol):
    """One converted model: its float32 nodes, and the parity of its outputs."""

    @property
    def float32_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that are in float32."""

    @property
    def parity(self) -> Parity:
        """Parity with the reference."""


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
    """The trial with few `nodes` in float32 that reaches `min_cosine`; the last one tried where none does.

    Args:
        attempt: converts all nodes but the named ones, and measures.
        nodes: names of the nodes that may go back to float32, in graph order.
        start: the trial that missed the gate; its float32 nodes stay in float32.
        min_cosine: the gate.
        largest_share: share of `nodes` beyond which the search gives up.
        cost: the cost of returning the named nodes; blocks are ranked by the gain in mean cosine per cost.
    """
    names = [name for name in nodes if name not in start.float32_nodes]
    size = max(1, len(names) // BLOCKS)
    # Overlapping, so that neighbours that only help together share a block.
    blocks = [tuple(names[index : index + 2 * size]) for index in range(0, len(names), size)]
    best, ranked = start, False
    while blocks and best.parity.min_cosine < min_cosine and len(best.float32_nodes) <= largest_share * len(names):
        if not ranked:
            trials = {block: attempt(_union(best.float32_nodes, block)) for block in blocks}
            gains = {block: trials[block].parity.mean_cosine - best.parity.mean_cosine for block in blocks}
            blocks.sort(key=lambda block: gains[block] / max(cost(block), 1), reverse=True)
            best, ranked = trials[blocks.pop(0)], True
        else:
            trial = attempt(_union(best.float32_nodes, blocks.pop(0)))
            # The ranking is used as long as its next block helps.
            ranked = trial.parity.mean_cosine > best.parity.mean_cosine
            best = trial
    return _without_unneeded(attempt, best, start.float32_nodes, min_cosine)


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
        raise InputError(
            "node names are not unique, so no node can be named to stay in float32; simplify the model first"
        )
    return named


def _without_unneeded(
    attempt: Callable[[tuple[str, ...]], T], found: T, fixed: tuple[str, ...], min_cosine: float
) -> T:
    """Step 4; the nodes in `fixed` stay in float32."""
    best, left = found, DROPS
    length = (len(found.float32_nodes) - len(fixed) + 1) // 2
    while length >= 1 and best.parity.min_cosine >= min_cosine:
        free = [name for name in best.float32_nodes if name not in fixed]
        for index in range(0, len(free), length):
            if not left:
                return best
            left -= 1
            run = set(free[index : index + length])
            trial = attempt(tuple(name for name in best.float32_nodes if name not in run))
            if trial.parity.min_cosine >= min_cosine:
                best = trial
        length //= 2
    return best


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
