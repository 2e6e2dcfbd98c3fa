"""What a long step of a command has done, on stderr: nothing for the first two seconds, then a line now and then."""

from __future__ import annotations

import os
import sys
import time

import click

__all__ = ["StageProgress"]

_FIRST_SECONDS = 2.0
_SECONDS = 10.0


class StageProgress:
    """Call it with what is done, how much of it, and how much there is; a terminal shows one line that changes."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Prepare; `quiet` shows nothing."""
        self._quiet = quiet
        self._stage, self._started, self._shown = "", 0.0, 0.0
        self._terminal = sys.stderr.isatty() and not os.environ.get("RTOOL_NO_PROGRESS")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` is done, if it is time to."""
        now = time.monotonic()
        if what != self._stage:
            self._stage, self._started, self._shown = what, now, 0.0
        if self._quiet or now - self._started < _FIRST_SECONDS:
            return
        line = f"{what}: {done:,} of {total:,}{_left(now - self._started, done, total)}"
        if self._terminal:
            click.echo(f"\r\033[K{line}" if done < total else "\r\033[K", nl=False, err=True)
        elif now - self._shown >= _SECONDS or done >= total:
            click.echo(line, err=True)
            self._shown = now


def _left(seconds: float, done: int, total: int) -> str:
    if not 0 < done < total:
        return ""
    left = round(seconds * (total - done) / done)
    return f", {left // 60}:{left % 60:02d} left"
