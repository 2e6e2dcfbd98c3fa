"""One process at a time: an advisory lock (flock) on a file, for publishers and for caches.

The lock belongs to the open file, so the operating system releases it when its holder dies. The file itself is empty
and is never removed: otherwise two processes could hold locks on different files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...converters.runtime.calling.waiting import announced
from ...errors import PlatformError

__all__ = ["exclusive"]

_POLL_SECONDS = 0.02


@contextmanager
def exclusive(path: Path, *, timeout: float, purpose: str) -> Iterator[None]:
    """Hold the lock on the file `path` (created if absent) for the duration of the block; wait up to `timeout` seconds.

    `purpose` completes the message "process 1234 has held this lock while ...".

    Raises:
        PlatformError: another process held the lock for `timeout` seconds, or the file cannot be created.
    """
    try:
        # 0600: whoever can open the file can hold its lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PlatformError(f"{path}: cannot create the lock file ({error.strerror}); check its folder") from error
    try:
        if not _taken(descriptor):
            with announced(f"{_holder(descriptor)} that holds the lock {path} while {purpose}, {timeout:g} s at most"):
                _wait(descriptor, path, timeout, purpose)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int, path: Path, timeout: float, purpose: str) -> None:
    deadline = time.monotonic() + timeout
    while not _taken(descriptor):
        if time.monotonic() > deadline:
            raise PlatformError(
                f"{path}: {_holder(descriptor)} has held this lock for {timeout:g} s while {purpose}; "
                "wait for it to finish, or end it, and try again"
            )
        time.sleep(_POLL_SECONDS)


def _holder(descriptor: int) -> str:
    """Who took the lock: "process 1234" where the system tells and it lives, else "another process".

    The list is that of proc_locks(5). On some file systems (btrfs, layers of overlayfs) it names another device, and
    does not tell.
    """
    file = os.fstat(descriptor)
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    with suppress(OSError, ValueError):  # the second: an imitation of /proc
        for line in Path("/proc/locks").read_text().splitlines():
            kind, _, _, number, where, *_ = line.split()[1:]
            if (kind, where) == ("FLOCK", place) and Path("/proc", number).is_dir():  # else unknown here, or dead
                return f"process {number}"
    return "another process"
