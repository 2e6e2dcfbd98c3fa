"""Keeps a server busy: requests are sent before the answers of earlier ones are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(items: Iterable[T], window: int, left: int | None = None) -> Iterator[T]:
    """The items in order, made before they are handed out.

    Args:
        items: Made one by one, as they are asked for.
        window: How many are made before the first is handed out, 1 or more.
        left: So many are still to be handed out when more are made, up to `window`; by default one less than `window`.
    """
    low = window - 1 if left is None else min(left, window - 1)
    pending: deque[T] = deque()
    for item in items:
        pending.append(item)
        if len(pending) >= window:
            while len(pending) > low:
                yield pending.popleft()
    yield from pending
