"""The processes that a run starts, ranks and batch workers: how they end with it, and who handles stop signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["end_with_parent", "serve_parent", "signals_held"]

_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""
_STOPS = (signal.SIGTERM, signal.SIGINT)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, for whatever reason (Linux; elsewhere nothing is done).

    A parent that is killed with signal 9 cannot stop its children. They would keep running and hold the run folder.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)


def serve_parent(_worker: int) -> None:
    """Ignore stop signals, which the parent handles, and end with it; batch workers call this first.

    Terminals, schedulers and torchrun signal whole groups of processes. If a worker stopped then, its parent could
    neither finish its step nor save a checkpoint.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def signals_held() -> Iterator[None]:
    """Block stop signals within the context, so that a child started in it cannot get one before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
