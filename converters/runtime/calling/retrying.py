"""Tries a failed call again, for as long as its cause is transient and its deadline has not passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ....errors import RtoolError
from .failures import BackendFailedError

if TYPE_CHECKING:
    from tritonclient.utils import InferenceServerException

__all__ = ["retry"]

T = TypeVar("T")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_BACKEND_SECONDS = 5.0
"""A dead process is noticed and replaced in this time; a model that fails for longer fails for another reason."""


def retry(
    attempt: Callable[[float], T],
    cause: Callable[[InferenceServerException], RtoolError],
    error: InferenceServerException,
    deadline: float,
) -> T:
    """The result of `attempt`, which gets the seconds left, after a first attempt ended with `error`.

    `deadline` is a time of `time.monotonic()`. Pauses grow from 0.05 s to 1 s.

    Raises:
        RtoolError: the cause is not transient, or the deadline would pass; the last cause that was found.
    """
    from tritonclient.utils import InferenceServerException

    pause = _FIRST_PAUSE
    failing_since: float | None = None
    while True:
        problem = cause(error)
        now = time.monotonic()
        if isinstance(problem, BackendFailedError):
            failing_since = now if failing_since is None else failing_since
        else:
            failing_since = None
        hopeless = failing_since is not None and now - failing_since > _BACKEND_SECONDS
        if not getattr(problem, "transient", False) or hopeless or now + pause >= deadline:
            raise problem from error
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            return attempt(max(deadline - time.monotonic(), _FIRST_PAUSE))
        except InferenceServerException as again:
            if "DEADLINE_EXCEEDED" in str(again.status()):
                raise problem from again
            error = again
