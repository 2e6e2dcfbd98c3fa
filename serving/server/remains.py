"""The temporary files of a server, named by the process that owns it, so that the next start can remove a dead one's.

A process that is killed removes nothing. Triton itself ends with its owner (`process.py`) and takes its shared memory
with it, unless it is killed too.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from ...converters.runtime.calling.access_key import process_started

__all__ = ["memory_prefix", "remove_memory", "scratch_folder", "sweep_dead"]

_SHARED_MEMORY = Path("/dev/shm")
_SCRATCH = "rtool-triton"
_MEMORY = "rtool"


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
    """Remove the folders and the shared memory of servers whose owner no longer runs."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}-*"):
        if _owner_died(path.name, "-"):
            shutil.rmtree(path, ignore_errors=True)
    for region in _SHARED_MEMORY.glob(f"{_MEMORY}_*") if _SHARED_MEMORY.is_dir() else ():
        if _owner_died(region.name, "_"):
            with suppress(OSError):
                region.unlink()


def _owner_died(name: str, separator: str) -> bool:
    """Whether a name of this module names a process that no longer runs; False for the names of others."""
    owner = re.match(rf"(?:{_SCRATCH}|{_MEMORY}){separator}(\d+){separator}(\d+){separator}", name)
    return owner is not None and process_started(int(owner[1])) != int(owner[2])
