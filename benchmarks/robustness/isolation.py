"""A function in a process of its own, with a time and a memory limit, so that a crash or a hang is a result."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

__all__ = ["CRASHED", "HUNG", "Isolated"]

CRASHED, HUNG = "crashed", "hung"
_START_SECONDS = 120.0


class Isolated:
    """Calls `function(*arguments)` in another process, which is restarted after a crash or hang.

    The function must be importable. A call may use `seconds`, and `gigabytes` of address space beyond its imports.
    """

    def __init__(self, function: Callable[..., Any], *, seconds: float, gigabytes: float) -> None:
        self._function = function
        self._seconds = seconds
        self._gigabytes = gigabytes
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, *arguments: Any) -> Any:
        """The function's result, or (CRASHED, how), or (HUNG, after how long)."""
        if self._process is None:
            self._start()
        assert self._connection is not None
        self._connection.send(arguments)
        try:
            if self._connection.poll(self._seconds):
                return self._connection.recv()
        except EOFError:
            self._process.join(5)
            outcome = (CRASHED, f"the process ended with code {self._process.exitcode}")
            self._stop()
            return outcome
        self._stop()
        return HUNG, f"no answer after {self._seconds:g} s"

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._function, other, self._gigabytes), daemon=True)
        self._process.start()
        other.close()
        if not self._connection.poll(_START_SECONDS):
            self._stop()
            raise TimeoutError(f"{self._function.__name__}: its process did not start in {_START_SECONDS:g} s")
        self._connection.recv()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _serve(function: Callable[..., Any], connection: Connection, gigabytes: float) -> None:
    warnings.simplefilter("ignore")
    limit = _address_space() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send("ready")
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        try:
            result = function(*arguments)
        except BaseException:
            result = (CRASHED, traceback.format_exc())
        connection.send(result)


def _address_space() -> int:
    """Bytes of address space in use on Linux; a fixed amount elsewhere."""
    if not sys.platform.startswith("linux"):
        return 16 * 2**30
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
