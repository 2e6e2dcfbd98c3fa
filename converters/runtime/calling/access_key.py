"""The key that opens model control, shared memory, trace and logging of a server that rtool started.

`rtool serve` writes one file per server, `<http-port>.key`, with mode 0600 in a folder of mode 0700:
`$XDG_RUNTIME_DIR/rtool`, else `keys` in rtool's cache. Clients of the same user find it by the port they call. A key is
sent only to this machine, and only while the process that wrote it lives: another user may have bound the port since.

Triton compares the header `rtool-key` over HTTP and `triton-grpc-protocol-rtool-key` over gRPC
(`--http-restricted-api`, `--grpc-restricted-protocol`).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ....cache_folder import cache_folder
from ...records.json_text import parse_json
from .address import split_address

__all__ = ["KEY_NAME", "AccessKey", "find_key", "grpc_headers", "key_folders", "process_started", "read_key"]

KEY_NAME = "rtool-key"
_GRPC_PREFIX = "triton-grpc-protocol-"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_LONGEST_FILE = 4096


@dataclass(frozen=True)
class AccessKey:
    """What a key file holds: the key, the ports that it opens, and the process that answers for the server.

    `started` is the start time of process `pid` in clock ticks since boot, because process ids are used again.
    """

    key: str
    http_port: int
    grpc_port: int
    pid: int
    started: int

    def text(self) -> str:
        """The content of the file, as JSON."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def alive(self) -> bool:
        """Whether the process that wrote the file still runs."""
        return process_started(self.pid) == self.started


def key_folders() -> tuple[Path, ...]:
    """Where key files may lie; a server writes into the first one that it can use."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folders = [Path(runtime) / "rtool"] if runtime else []
    return (*folders, cache_folder() / "keys")


def find_key(url: str) -> str | None:
    """The key of the server at `url` (host:port of gRPC or HTTP), when this user started it on this machine.

    Raises:
        InputError: `url` is not host:port.
    """
    host, port = split_address(url)
    if host.lower() not in _LOOPBACK:
        return None
    for access in _present_keys():
        if port in (access.grpc_port, access.http_port) and access.alive:
            return access.key
    return None


def grpc_headers(url: str) -> Mapping[str, str]:
    """The headers that open the restricted protocols of the server at `url`; empty when there is no key for it."""
    key = find_key(url)
    return {f"{_GRPC_PREFIX}{KEY_NAME}": key} if key is not None else {}


def process_started(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot; None when it does not run, 0 without a /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        with suppress(OSError, OverflowError):  # a number that no process can have
            os.kill(pid, 0)
            return 0
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _present_keys() -> Iterator[AccessKey]:
    for folder in key_folders():
        with suppress(OSError):
            if not _only_ours(folder.stat(), stat.S_ISDIR):
                continue
            for path in sorted(folder.glob("*.key")):
                if (access := read_key(path)) is not None:
                    yield access


def read_key(path: Path) -> AccessKey | None:
    """The key in a file; None for a file that somebody else could have written, or that is damaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not _only_ours(os.fstat(descriptor), stat.S_ISREG):
            return None
        data = file.read(_LONGEST_FILE)
    try:
        found = parse_json(data)
        return AccessKey(
            str(found["key"]), *(int(found[name]) for name in ("http_port", "grpc_port", "pid", "started"))
        )
    except (ValueError, KeyError, TypeError):
        return None


def _only_ours(found: os.stat_result, kind: Callable[[int], bool]) -> bool:
    """Whether it is of that kind, belongs to this user, and nobody else can open it."""
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
