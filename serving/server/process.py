"""A child process that never outlives its parent, writes its output to a file and can always be stopped.

The child asks the kernel (PR_SET_PDEATHSIG) for SIGTERM when its parent dies, so that a killed test run or a closed
terminal leaves no server behind. A small shim makes the request and then becomes the server by exec: a `preexec_fn`
would run Python between fork and exec of a process that has threads, and gRPC starts threads in every client. For the
kernel, the parent is the *thread* that started the child: start it from a thread that lives as long as the server.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import PlatformError

__all__ = ["ChildProcess"]

_SHIM = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


_NO_GPU = re.compile("CudaDriverHelper|initialize NVML")
"""Lines that Triton logs as errors on every machine without a GPU."""


class ChildProcess:
    """One running command, leader of its own process group so that Ctrl-C reaches only the parent."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.command = tuple(command)
        self.log = log
        shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *command]
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()  # the lines before it belong to earlier runs
                self._process = subprocess.Popen(
                    shim,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise PlatformError(f"{command[0]}: cannot be started ({error}); log file {log}") from error

    @property
    def pid(self) -> int:
        """Process id of the child, which is also its process group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The child's exit code (minus the signal that ended it); None while it runs."""
        return self._process.poll()

    def stop(self, grace: float) -> None:
        """Send SIGTERM, after `grace` seconds SIGKILL, and SIGKILL to what is left of its process group."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        if self._process.poll() is None:
            self._process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 12) -> str:
        """The last `lines` lines of this run's log, without tables and blank lines."""
        return "\n".join(self._lines()[-lines:])

    def complaints(self, lines: int = 12) -> str:
        """The first lines of this run's log that are marked as errors, by glog or by the program; `tail` if none is."""
        errors = [
            line for line in self._lines() if re.match(r"  (E\d{4} |[Ee]rror:)", line) and not _NO_GPU.search(line)
        ]
        return "\n".join(errors[:lines]) or self.tail(lines)

    def _lines(self) -> list[str]:
        text = self.log.read_bytes()[self._log_start :].decode(errors="replace") if self.log.exists() else ""
        return [f"  {line.rstrip()[:600]}" for line in text.splitlines() if line.strip() and line[0] not in "+|"]
