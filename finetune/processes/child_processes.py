"""How the processes that a run starts live and end with it: ranks, and workers that make batches."""

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
    """Have this process killed when the one that started it dies, however that dies (Linux; nothing elsewhere).

    A parent that is killed with signal 9 cannot stop its children. They would work on, unseen, and hold the run folder.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)


def serve_parent(_worker: int) -> None:
    """Leave stop signals to the parent, and end with it: what a worker that makes batches does first.

    Terminals, schedulers and torchrun signal whole groups of processes. A worker that stopped then would take the step
    its parent ends, and the checkpoint, with it.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold stop signals back within the context: a child started in it has them held until it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
