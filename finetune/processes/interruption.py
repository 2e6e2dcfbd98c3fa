"""Stop a run after its present step: on SIGTERM, which schedulers send before they kill, or on Ctrl-C (SIGINT).

SIGTERM may come several times, from a scheduler and from a launcher, with the same effect. A second Ctrl-C ends the run
at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["handlers_put_back", "on_stop_signal"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OURS = (*_SIGNALS, signal.SIGHUP, signal.SIGQUIT)
"""Signals whose handlers torch's launcher replaces."""


@contextmanager
def on_stop_signal(request: Callable[[str], None], signals: Sequence[signal.Signals] = _SIGNALS) -> Iterator[None]:
    """Within the context, call `request` with the name of each signal; outside the main thread do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        request(signal.Signals(number).name)

    with handlers_put_back():
        before = {number: signal.signal(number, stop) for number in signals}
        yield


@contextmanager
def handlers_put_back() -> Iterator[None]:
    """Restore the handlers of stop signals after the context; torch's launcher leaves its own behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _OURS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # a handler that was not set from Python cannot be restored from it
                signal.signal(number, handler)
