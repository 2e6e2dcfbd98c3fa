"""Ask a run to stop at its next step: SIGTERM, as schedulers send before they kill, or Ctrl-C (SIGINT).

SIGTERM may come several times, from a scheduler and from a launcher; all mean the same. A second Ctrl-C ends the run at
once, as without this module.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["on_stop_signal"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_stop_signal(request: Callable[[str], None]) -> Iterator[None]:
    """Call `request` with a signal's name within the context; outside the main thread, which gets them, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        request(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
