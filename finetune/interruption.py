"""Ask a run to stop at its next step when SIGTERM arrives, as schedulers send before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["on_sigterm"]


@contextmanager
def on_sigterm(request: Callable[[], None]) -> Iterator[None]:
    """Call `request` on SIGTERM within the context. Signals reach the main thread only; elsewhere it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: request())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
