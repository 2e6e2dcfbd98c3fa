"""A child process that never outlives its parent, writes its output to a file and can always be stopped.

The child asks the kernel (PR_SET_PDEATHSIG) for SIGTERM when its parent dies, so that a killed test run or a closed
terminal leaves no server behind. A small shim asks and then becomes the server: doing it in a `preexec_fn` would run
Python between fork and exec of a process with threads, which gRPC makes of every client. The kernel counts the
*thread* that started the child as its parent: start it from one that lives as long as the server shall.
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
"""What Triton reports as errors on every machine without a GPU."""


class ChildProcess:
    """One running command, leader of its own process group so that Ctrl-C reaches only the parent."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.command = tuple(command)
        self.log = log
        shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *command]
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()  # what was there before is not ours to report
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
        """None while the child runs."""
        return self._process.poll()

    def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; what is left of its process group goes with it."""
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
        """The last lines of the log that say something: no tables, no blank lines."""
        return "\n".join(self._said()[-lines:])

    def complaints(self, lines: int = 12) -> str:
        """The first lines of the log that report errors, as glog or the program marks them; its tail if none does."""
        errors = [
            line for line in self._said() if re.match(r"  (E\d{4} |[Ee]rror:)", line) and not _NO_GPU.search(line)
        ]
        return "\n".join(errors[:lines]) or self.tail(lines)

    def _said(self) -> list[str]:
        text = self.log.read_bytes()[self._log_start :].decode(errors="replace") if self.log.exists() else ""
        return [f"  {line.rstrip()[:600]}" for line in text.splitlines() if line.strip() and line[0] not in "+|"]
