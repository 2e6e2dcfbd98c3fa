"""Closes what changes a server: model control, shared memory, trace and logging need a key that only its owner has.

Without it, anybody on the machine could load a model of his own, which is code, and so could a web page in the owner's
browser, because Triton reads a JSON body whatever its type. Every start draws a new key. Inference, health, metadata,
model configurations, statistics and metrics stay open.

The key reaches Triton hidden (`hidden_arguments.py`) and clients by a file that only this user can open
(`converters/runtime/calling/access_key.py`).
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ...converters.runtime.calling.access_key import KEY_NAME, AccessKey, key_folders, process_started, read_key
from ...errors import PlatformError
from .ports import Ports

__all__ = ["OPTIONS", "PLACEHOLDERS", "RESTRICTED", "Access"]

RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
"""Triton's names of the groups of endpoints that need the key; the same over HTTP and gRPC."""

OPTIONS = ("--http-restricted-api", "--grpc-restricted-protocol")
PLACEHOLDERS = tuple(f"{option}=(hidden)" for option in OPTIONS)
"""What the process list shows; Triton refuses to start with these."""


class Access:
    """The key of one start of a server on `ports`: made at once, in a file from `publish` to `remove`."""

    def __init__(self, repository: Path, ports: Ports) -> None:
        self._repository = repository
        pid = os.getpid()
        self.key = AccessKey(secrets.token_hex(32), ports[0], ports[1], pid, process_started(pid) or 0)
        self.path: Path | None = None

    def arguments(self) -> Mapping[str, str]:
        """Placeholder on the command line -> the argument that Triton must get instead."""
        return {
            placeholder: f"{option}={','.join(RESTRICTED)}:{KEY_NAME}={self.key.key}"
            for option, placeholder in zip(OPTIONS, PLACEHOLDERS, strict=True)
        }

    def publish(self) -> Path:
        """Write the key file, mode 0600, for the clients of this user, and return its path.

        Raises:
            PlatformError: no folder for it can be written, or all lie inside the repository.
        """
        problems = []
        for folder in key_folders():
            try:
                self.path = self._write(folder)
            except OSError as error:
                problems.append(f"{folder}: {error.strerror or error}")
            else:
                return self.path
        listed = "; ".join(problems)
        raise PlatformError(f"no folder for the server's access key ({listed}); set XDG_RUNTIME_DIR or RTOOL_CACHE")

    def remove(self) -> None:
        """Remove the key file, unless a later server has written its own."""
        if self.path is not None:
            with suppress(OSError):
                if self.path.read_text() == self.key.text():
                    self.path.unlink()
            self.path = None

    def _write(self, folder: Path) -> Path:
        repository = self._repository.resolve()
        if folder.resolve().is_relative_to(repository):
            raise OSError("lies inside the model repository")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise OSError("belongs to another user")
        if found.st_mode & 0o077:
            folder.chmod(0o700)
        _remove_dead(folder)
        path = folder / f"{self.key.http_port}.key"
        if (other := read_key(path)) is not None and other.alive and other.pid != self.key.pid:
            raise PlatformError(
                f"http port {self.key.http_port}: process {other.pid} starts a server on it; stop that one"
            )
        descriptor, draft = tempfile.mkstemp(dir=folder, prefix=".key-")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.key.text())
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        return path


def _remove_dead(folder: Path) -> None:
    """Remove the key files of servers that were killed: they open nothing, and nobody else would remove them."""
    for path in folder.glob("*.key"):
        if (access := read_key(path)) is not None and not access.alive:
            with suppress(OSError):
                path.unlink()
