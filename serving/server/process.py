"""A child process that never outlives its parent, writes its output to a file and can always be stopped.

The child asks the kernel (PR_SET_PDEATHSIG) for SIGTERM when its parent dies, so that a killed test run or a closed
terminal leaves no server behind. A small program (`child_start.py`) makes the request and then becomes the server by
exec: a `preexec_fn` would run Python between fork and exec of a process that has threads, and gRPC starts threads in
every client. For the kernel, the parent is the *thread* that started the child: start it from a thread that lives as
long as the server.

On Linux, what the child starts, and leaves in its process group, is killed some two seconds after the child's end,
whatever ended it. What it creates, shared memory included, only its owner can open. It is batch work for the scheduler.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import PlatformError
from .hidden_arguments import place_hidden

__all__ = ["ChildProcess"]

_START = Path(__file__).resolve().with_name("child_start.py")
_HIDDEN = "RTOOL_TRITON_ARGUMENT_"
"""Names of the environment variables that hold hidden arguments start like this."""

_NO_GPU = re.compile("CudaDriverHelper|initialize NVML")
"""Lines that Triton logs as errors on every machine without a GPU."""


class ChildProcess:
    """One running command, leader of its own process group so that Ctrl-C reaches only the parent.

    `hidden` maps placeholders among the command's arguments to the arguments that nobody else may read; `program` is
    then the beginning of the name of the file that takes them, which a wrapper on the way may start.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        hidden: Mapping[str, str] | None = None,
        program: str = "",
    ) -> None:
        self.command = tuple(command)
        self.log = log
        names = {placeholder: f"{_HIDDEN}{number}" for number, placeholder in enumerate(hidden or {})}
        secrets = {names[placeholder]: argument for placeholder, argument in (hidden or {}).items()}
        mode = "traced" if names else "free"
        shim = [sys.executable, "-I", "-S", str(_START), str(os.getpid()), mode, *command]
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()  # the lines before it belong to earlier runs
                self._process = subprocess.Popen(
                    shim,
                    env={**environment, **secrets},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise PlatformError(f"{command[0]}: cannot be started ({error}); log file {log}") from error
        if names:
            try:
                place_hidden(self._process.pid, program, names)
            except BaseException:
                self.stop(0.0)
                raise

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

    def bound_log(self, most: int) -> None:
        """Begin the log again when it is longer than `most` bytes: a program can fill a disk by one message.

        What it held goes to a file with `.1` behind its name, where the disk has room. It is written by appending, so
        that the next line stands at its new beginning.
        """
        with suppress(OSError):
            if self.log.is_file() and self.log.stat().st_size > most:
                with suppress(OSError):
                    shutil.copy(self.log, self.log.with_name(f"{self.log.name}.1"))
                os.truncate(self.log, 0)
                self._log_start = 0

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
