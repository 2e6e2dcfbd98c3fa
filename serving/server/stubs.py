"""Notices when a stub dies: the process in which Triton's Python backend runs one instance of a model.

Triton 24.10 does not: after a stub is killed, health and readiness still answer 200, and every request to the model
fails. A dead stub stays a zombie of the server, where an unloaded model's stub is collected at once. Nor does Triton
end the other stubs of a model that it unloads after one died with a request to another model on its way (a packer's).
Reads /proc; elsewhere nothing is noticed.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["StubWatch"]

_PROC = Path("/proc")
_NAME = "triton_python_backend_stub"
_COMM = 15
"""Letters that the kernel keeps of a program's name."""
_LOOKS = 2
"""A stub counts as dead when so many looks in a row find a zombie: one that ends in order is one for an instant."""


class StubWatch:
    """The stubs of the server process `pid`, which serves `repository`. Not for use from several threads."""

    def __init__(self, pid: int, repository: Path) -> None:
        self._pid = pid
        self._repository = repository.absolute()
        self._models: dict[int, str] = {}
        self._looks: dict[int, int] = {}
        self._replaced: dict[int, tuple[str, float]] = {}
        self.deaths()  # whose stubs there are, before the first of them dies

    def deaths(self) -> tuple[str, ...]:
        """The models of which a stub has died since, sorted; each death is reported once.

        "" stands for a stub that died before it was seen alive, of which only the program's name is left.
        """
        dead = set()
        for pid in self.note():
            if pid in self._replaced or self._model_of(pid) is not None:
                continue
            if _state(pid) == "Z" and (pid in self._models or _program(pid) == _NAME[:_COMM]):
                self._looks[pid] = self._looks.get(pid, 0) + 1
                if self._looks[pid] == _LOOKS:
                    dead.add(self._models.get(pid, ""))
        return tuple(sorted(dead))

    def note(self) -> tuple[int, ...]:
        """Look which stubs run, so that they are known when they die; returns the server's children."""
        children = _children(self._pid)
        for pid in children:
            if (model := self._model_of(pid)) is not None:
                self._models[pid] = model
                self._looks.pop(pid, None)  # the number was another process's before
        return children

    def replace(self, model: str) -> None:
        """The running stubs of `model` are about to be replaced: their end is no death any more."""
        now = time.monotonic()
        self._replaced |= {pid: (model, now) for pid in _children(self._pid) if self._model_of(pid) == model}

    def end_replaced(self, after: float) -> int:
        """Kill the stubs that still run `after` seconds after they were to be replaced; returns how many there were."""
        children, ended = _children(self._pid), 0
        for pid, (model, since) in tuple(self._replaced.items()):
            if pid in children and self._model_of(pid) == model:
                if time.monotonic() - since < after:
                    continue
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    ended += 1
            elif pid not in children:
                del self._replaced[pid]
        return ended

    def _model_of(self, pid: int) -> str | None:
        """The model that a running stub serves: its first argument is a file of the model's version folder."""
        with suppress(OSError, ValueError):
            arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
            if Path(arguments[0].decode()).name == _NAME:
                return Path(arguments[1].decode()).relative_to(self._repository).parts[0]
        return None


def _children(pid: int) -> tuple[int, ...]:
    found: set[int] = set()
    for task in (_PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):
            found |= {int(child) for child in task.read_text().split()}
    return tuple(sorted(found))


def _program(pid: int) -> str:
    with suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text().strip()
    return ""


def _state(pid: int) -> str:
    with suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    return ""
