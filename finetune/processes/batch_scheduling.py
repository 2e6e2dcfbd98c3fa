"""Scheduling of commands that send thousands of images to a server on the same machine."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["schedule_as_batch"]


def schedule_as_batch() -> None:
    """Schedule this thread, and those that it starts from now on, as batch work: SCHED_BATCH of sched(7).

    A thread that wakes then does not interrupt one that computes. A client does so for every answer and every request,
    and where it shares its cores with the server, it is the server's model that it interrupts. Nothing else changes; a
    policy other than the usual one was chosen by whoever started the process, and stays. Without effect outside Linux.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(PermissionError):  # a sandbox may forbid it; it changes the speed alone
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
