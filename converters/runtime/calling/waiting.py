"""Says on stderr what a command waits for, when it waits for longer than most of a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

__all__ = ["announced"]

_SECONDS = 0.7


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Print "waiting for `what`" unless the block ends within 0.7 s."""

    def say() -> None:
        print(f"waiting for {what}", file=sys.stderr, flush=True)  # noqa: T201 - progress belongs on stderr

    timer = Timer(_SECONDS, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
