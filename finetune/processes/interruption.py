"""Ask a run to stop at its next step: SIGTERM, as schedulers send before they kill, or Ctrl-C (SIGINT).

SIGTERM may come several times, from a scheduler and from a launcher; all mean the same. A second Ctrl-C ends the run at
once, as without this module.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["handlers_put_back", "on_stop_signal"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OURS = (*_SIGNALS, signal.SIGHUP, signal.SIGQUIT)
"""Those that torch's launcher takes over."""


@contextmanager
def on_stop_signal(request: Callable[[str], None], signals: Sequence[signal.Signals] = _SIGNALS) -> Iterator[None]:
    """Call `request` with a signal's name within the context; outside the main thread, which gets them, do nothing."""
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
    """Undo what the context does to the handlers of stop signals; torch's launcher leaves its own behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _OURS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set by Python cannot be set by it
                signal.signal(number, handler)
