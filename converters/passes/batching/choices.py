"""The choices that a rewriting of the batch has, and the search through them.

At a batch of 1 a Reshape to constant sizes fits several axes: [1, 1, 8] becomes [1, 2, 4] with the batch at axis 0 or
inside axis 1. Only what follows tells: a wrong axis ends in shapes that do not fit each other, or in an output without
an image axis (`BatchConflictError`), or in other numbers. Then the last choice is changed and the walk starts again.

Networks repeat their blocks, so equal decisions (the same sizes and the same constants) are one choice at first; only
where that leads nowhere is each node a choice of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

__all__ = ["BatchChoices", "BatchConflictError", "searched"]

_WALKS = 200
"""Walks through the graph, each as long as inferring its shapes twice; and as many rewritten graphs are run at most."""
_T = TypeVar("_T")


class BatchConflictError(Exception):
    """What was chosen does not fit the rest of the graph."""


class BatchChoices:
    """The options taken in one walk; those not named in `wanted` take the first."""

    def __init__(self, wanted: Sequence[int], *, by_node: bool) -> None:
        self._wanted, self._by_node = wanted, by_node
        self._taken: dict[Hashable, int] = {}
        self.counts: list[int] = []
        """Options at each choice that was met, in order."""

    def take(self, options: Sequence[_T], node: Hashable, kind: Hashable) -> _T | None:
        """One of `options`, the likeliest first; None where there are none.

        Args:
            options: what can be chosen.
            node: what the choice is for.
            kind: equal for decisions that are likely to be decided alike.
        """
        if len(options) < 2:
            return options[0] if options else None
        key = node if self._by_node else (kind, len(options))
        if key not in self._taken:
            number = len(self.counts)
            self._taken[key] = self._wanted[number] if number < len(self._wanted) else 0
            self.counts.append(len(options))
        return options[self._taken[key]]

    @property
    def taken(self) -> list[int]:
        """The options taken, in the order of `counts`."""
        return list(self._taken.values())


def searched() -> Iterator[BatchChoices]:
    """Choices for one walk after another, depth first; each must be used before the next is asked for."""
    walks = 0
    for by_node in (False, True):
        wanted: list[int] | None = []
        while wanted is not None and walks < _WALKS:
            choices = BatchChoices(wanted, by_node=by_node)
            yield choices
            walks += 1
            wanted = _next(choices)
        if by_node is False and walks == 1:
            return  # there was nothing to choose


def _next(choices: BatchChoices) -> list[int] | None:
    """The last choice that has another option takes it; None where none has."""
    taken = choices.taken
    for place in reversed(range(len(taken))):
        if taken[place] + 1 < choices.counts[place]:
            return [*taken[:place], taken[place] + 1]
    return None
