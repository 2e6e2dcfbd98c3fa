"""What is known of each server that this user runs, in a file that outlives it: `--status` also names what ended.

`rtool serve` writes `<http-port>.json` beside its access key (`server/access.py`), mode 0600, when the server is ready,
and again at every event. An id is the repository's name and the HTTP port, such as `model_repository-8000`. The record
of a server that ended by itself stays until the next start of the repository or on its port, or until `--stop`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...converters.records.json_text import parse_json
from ...converters.runtime.calling.access_key import key_folders, process_started
from ...errors import PlatformError

__all__ = ["ServiceRecord", "forget", "remember", "service_folder", "service_id", "services"]


@dataclass(frozen=True)
class ServiceRecord:
    """One server. `pid` and `started` are of the process `rtool serve`; `log` is None where none is kept.

    `kind` is path, container or embedded.
    """

    id: str
    repository: str
    pid: int
    started: int
    kind: str
    url: str
    http_url: str
    metrics_url: str
    models: tuple[str, ...]
    log: str | None = None
    restarts: int = 0
    reloads: int = 0
    last_event: str = ""

    @property
    def alive(self) -> bool:
        """Whether the process that wrote the record still runs."""
        return process_started(self.pid) == self.started

    @property
    def http_port(self) -> int:
        """The port of the HTTP endpoint."""
        return int(self.http_url.rpartition(":")[2])

    def at(self, **changes: Any) -> ServiceRecord:
        """The record with some values changed."""
        return replace(self, **changes)


def service_id(repository: Path, http_port: int) -> str:
    """The id of the server of a repository on a port: letters, digits, `_` and `-` only."""
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', repository.resolve().name) or 'root'}-{http_port}"


def service_folder() -> Path:
    """The folder of the records, made with mode 0700 on first use.

    Raises:
        PlatformError: none of the folders can be written.
    """
    problems = []
    for folder in (path / "services" for path in key_folders()):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            if folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK):
                return folder
            problems.append(f"{folder}: belongs to another user")
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
    raise PlatformError(
        f"no folder for the records of servers ({'; '.join(problems)}); set XDG_RUNTIME_DIR or RTOOL_CACHE"
    )


def remember(record: ServiceRecord) -> None:
    """Write the record, in full or not at all; records of dead servers of the same repository, or of none, go."""
    folder = service_folder()
    path = folder / f"{record.http_port}.json"
    if (before := _read(path)) is not None and before.log != record.log:
        _remove_log(before)
    descriptor, draft = tempfile.mkstemp(dir=folder, prefix=".record-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(asdict(record), indent=2) + "\n")
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    for other in services():
        outdated = other.repository == record.repository or not Path(other.repository).is_dir()
        if outdated and not other.alive and other.http_port != record.http_port:
            forget(other)


def forget(record: ServiceRecord) -> None:
    """Remove the record and a detached server's log, unless a later server has written its own."""
    path = service_folder() / f"{record.http_port}.json"
    found = _read(path)
    if found is not None and (found.pid, found.started) == (record.pid, record.started):
        path.unlink(missing_ok=True)
        _remove_log(record)


def _remove_log(record: ServiceRecord) -> None:
    """Remove a log that lies beside the records; one that the user named stays."""
    if record.log is not None and Path(record.log).parent == service_folder().resolve():
        for path in (record.log, f"{record.log}.1"):
            Path(path).unlink(missing_ok=True)


def services() -> tuple[ServiceRecord, ...]:
    """Every record of this user, by port."""
    return tuple(sorted(_present(), key=lambda record: record.http_port))


def _present() -> Iterator[ServiceRecord]:
    for path in service_folder().glob("*.json"):
        if (record := _read(path)) is not None:
            yield record


def _read(path: Path) -> ServiceRecord | None:
    """The record in a file; None for one that is damaged, or that somebody else could have written."""
    try:
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            return None
        found = parse_json(path.read_text())
        return ServiceRecord(**{**found, "models": tuple(found["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
