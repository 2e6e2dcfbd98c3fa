"""`rtool serve --detach`: a server that goes on when the command has ended, and with the terminal.

The same command is started in a session of its own, with its output in a file; this returns when the server is ready,
or says why it is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...converters.runtime.calling.waiting import announced
from ...errors import InputError, PlatformError
from .records import ServiceRecord, service_folder, services

__all__ = ["detach"]

_POLL_SECONDS = 0.1
_SPARE_SECONDS = 30.0
"""Beyond the server's own time to become ready: importing, and unpacking the embedded server on first use."""


def detach(repository: Path, arguments: Sequence[str], *, timeout: float) -> ServiceRecord:
    """Start `rtool serve REPOSITORY ARGUMENTS` in the background and wait until its server is ready.

    `arguments` are those of the command line; `timeout` in seconds is the server's.

    Raises:
        InputError, PlatformError: it ended before it was ready; the message is the end of what it said.
    """
    log = service_folder().resolve() / f"{time.time_ns()}.log"
    # -P: the folder in which the command was typed may be anybody's, and must not be where Python looks for modules.
    command = [sys.executable, "-P", "-m", "rtool", "serve", str(repository.absolute()), *arguments]
    with os.fdopen(os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as output:
        process = subprocess.Popen(
            [*command, "--log", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with announced(f"the server to be ready, {timeout:g} s at most"):
        return _wait(process, log, time.monotonic() + timeout + _SPARE_SECONDS)


def _wait(process: subprocess.Popen[bytes], log: Path, deadline: float) -> ServiceRecord:
    while time.monotonic() < deadline:
        for record in services():
            if record.pid == process.pid and record.alive:
                return record
        if (code := process.poll()) is not None:
            said = _last_words(log)
            log.unlink(missing_ok=True)
            raise (InputError if code == 2 else PlatformError)(f"the server ended with exit code {code}: {said}")
        time.sleep(_POLL_SECONDS)
    process.terminate()
    raise PlatformError(f"the server was not ready in time and was ended; its log is {log}")


def _last_words(log: Path) -> str:
    """From the error message on, else the last lines."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    start = next((index for index, line in enumerate(lines) if line.startswith("Error")), max(0, len(lines) - 8))
    return "\n".join(lines[start:]).removeprefix("Error: ") or "it said nothing"
