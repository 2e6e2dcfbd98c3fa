"""The temporary files of a server, named by the process that owns it, so that the next start can remove a dead one's.

A process that is killed removes nothing. Triton itself ends with its owner (`process.py`) and takes its shared memory
with it, unless it is killed too.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ...converters.runtime.calling.access_key import grpc_headers, process_started

__all__ = ["memory_prefix", "remove_memory", "scratch_folder", "sweep_dead", "unregister_abandoned"]

_SHARED_MEMORY = Path("/dev/shm")
_SCRATCH = "rtool-triton"
_MEMORY = "rtool"
_STATUS_SECONDS = 5.0


def scratch_folder() -> Path:
    """A new folder for the log of a server that this process owns."""
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}-{os.getpid()}-{process_started(os.getpid()) or 0}-"))


def memory_prefix() -> str:
    """What the names of the shared memory of one server of this process start with."""
    return f"{_MEMORY}_{os.getpid()}_{process_started(os.getpid()) or 0}_{uuid.uuid4().hex[:8]}_"


def remove_memory(prefix: str) -> None:
    """Remove the shared memory whose names start with `prefix`."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*") if _SHARED_MEMORY.is_dir() else ():
        with suppress(OSError):
            region.unlink()


def sweep_dead() -> None:
    """Remove the folders and the shared memory of servers of this user whose owner no longer runs.

    Everybody may write into both places: what belongs to another user is left alone, whatever its name, and nothing
    that lies there may keep a server from starting.
    """
    for path in _named(Path(tempfile.gettempdir()), _SCRATCH, "-", stat.S_ISDIR):
        with suppress(OSError, RecursionError):
            shutil.rmtree(path, ignore_errors=True)
    for region in _named(_SHARED_MEMORY, _MEMORY, "_", stat.S_ISREG):
        with suppress(OSError):
            region.unlink()


def unregister_abandoned(url: str) -> int:
    """Unregister the shared memory of clients that ended without doing so; returns how many regions there were.

    Its file is gone then. The server keeps such memory for ever, and a region that it still reads for some seconds.
    """
    gone = 0
    with triton.InferenceServerClient(url) as client:
        headers = grpc_headers(url)
        listed: Any = client.get_system_shared_memory_status(headers=headers, client_timeout=_STATUS_SECONDS)
        for name, region in listed.regions.items():
            if region.key.startswith("/rtool-") and not (_SHARED_MEMORY / region.key[1:]).exists():
                with suppress(InferenceServerException):
                    client.unregister_system_shared_memory(name, headers=headers, client_timeout=_STATUS_SECONDS)
                    gone += 1
    return gone


def _named(folder: Path, word: str, separator: str, is_kind: Callable[[int], bool]) -> Iterator[Path]:
    """Entries of this user, of one kind, that are named by a process that no longer runs."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            owner = re.match(rf"{word}{separator}(\d{{1,10}}){separator}(\d{{1,20}}){separator}", entry.name)
            if owner is None:
                continue
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                ours = found.st_uid == os.geteuid() and is_kind(found.st_mode)
                if ours and process_started(int(owner[1])) != int(owner[2]):
                    yield Path(entry.path)
