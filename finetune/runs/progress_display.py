"""What a run shows while it trains, on stderr: a bar on a terminal, sparse lines elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressDisplay"]

_STAGE_SECONDS = 5.0
"""Time from the start of a stage to its first line, and between lines."""


class ProgressDisplay:
    """Use as a context manager. `line` prints a line; `update` moves the bar, if there is one."""

    def __init__(self, *, quiet: bool = False, bar: bool | None = None) -> None:
        """Prepare the display.

        Args:
            quiet: Print nothing.
            bar: Whether to draw a bar; None: if stderr is a terminal and RTOOL_NO_PROGRESS is not set.
        """
        self._quiet = quiet
        wanted = sys.stderr.isatty() and not os.environ.get("RTOOL_NO_PROGRESS") if bar is None else bar
        self._bar: Progress | None = None if quiet or not wanted else _make_bar()
        self._task: TaskID | None = None
        self._stage, self._stage_shown = "", 0.0

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def has_bar(self) -> bool:
        """Whether a bar shows each step, so that lines about steps are not needed."""
        return self._bar is not None

    def line(self, text: str) -> None:
        """Print one line, above the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress belongs on stderr

    def stage(self, what: str, done: int, total: int) -> None:
        """Show how far a long step between two steps of training is, such as an evaluation; nothing if it is short."""
        now = time.monotonic()
        if what != self._stage:
            self._stage, self._stage_shown = what, now
        if self._quiet or now - self._stage_shown < _STAGE_SECONDS:
            return
        self._stage_shown = now
        if self._bar is None:
            self.line(f"{what}: {done:,} of {total:,}")
        elif self._task is not None:
            self._bar.update(self._task, note=f"{what}: {done:,} of {total:,}")

    def update(self, step: int, total: int, text: str) -> None:
        """Show that `step` of `total` is done; `text` stands behind the bar."""
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task("training", total=total, note="")
        self._bar.update(self._task, completed=step, note=text)


def _make_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True, soft_wrap=True),
    )
