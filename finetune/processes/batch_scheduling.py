"""Scheduling of `embed` and `evaluate` of a served model, which may run on the same cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["schedule_as_batch", "scheduled_as_batch"]


def schedule_as_batch() -> bool:
    """Schedule this thread, and those that it starts from now on, as batch work: SCHED_BATCH of sched(7).

    A thread that wakes then does not interrupt one that computes. A client does so for every answer and every request,
    and where it shares its cores with the server, it is the server's model that it interrupts. Nothing else changes; a
    policy other than the usual one was chosen by whoever started the process, and stays.

    Returns:
        Whether the policy changed; outside Linux, and where a sandbox refuses it, it does not.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # it changes the speed alone
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
                return True
    return False


@contextmanager
def scheduled_as_batch() -> Iterator[None]:
    """`schedule_as_batch` for the duration of the block."""
    changed = schedule_as_batch()
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
