"""Keeps a server busy: requests are sent before the answers of earlier ones are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(items: Iterable[T], window: int) -> Iterator[T]:
    """The items in order; `window` of them are made before the first is handed out, and more when half are left.

    Made one by one, each would take a core at the moment when the server turns from one request to the next.
    """
    pending: deque[T] = deque()
    for item in items:
        pending.append(item)
        if len(pending) >= window:
            while len(pending) > window // 2:
                yield pending.popleft()
    yield from pending
