"""Inputs of requests in memory that client and server share, where the server runs on this machine and allows it.

One region of POSIX shared memory, mode 0600, is cut into slots of one request each. The server knows it by a secret
name: whoever knows that name may have a request, which needs no key, read the region or write its answer into it, and
everybody can list the names of shared memory on this machine. A slot is taken when a request is
sent and given back when its answer has come, never before: the server may read until then. Registering a region needs
the key that only the user who started the server has (`converters/runtime/calling/access_key.py`); releases from 26.05
on also need `--allow-client-shm=true`. Outputs come by gRPC: embeddings are small.

A region that a request has failed with is given up, for nobody can tell whether the server still reads it, and a server
that was started again does not know it; the next one is made after a second. Triton: protocol extension "System shared
memory".
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import resource_tracker, shared_memory
from threading import Lock, Thread
from typing import Any

from ...converters.runtime.calling.access_key import grpc_headers
from ...converters.runtime.calling.address import split_address

__all__ = ["SharedSlots", "Slot"]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_SECONDS = 2.0
_AGAIN_SECONDS = 1.0
_UNREGISTER = 5


class Slot:
    """The memory of one request; `release` gives it back, `abandon` gives up the region it lies in."""

    def __init__(self, region: _Region, number: int) -> None:
        self._region, self._number = region, number
        self.offset = number * region.slot_bytes
        self.memory = region.bytes_at(number)

    @property
    def name(self) -> str:
        """The name that the server knows the region by, which is secret."""
        return self._region.name

    def release(self) -> None:
        """Give it back; the server has answered."""
        self.memory.release()
        self._region.give_back(self._number)

    def abandon(self) -> None:
        """Use neither this slot nor its region again."""
        self._region.lost = True
        self.release()


class _Region:
    """One region, registered with the server."""

    def __init__(self, client: Any, headers: Mapping[str, str], slot_bytes: int, slots: int) -> None:
        self._client, self._headers = client, headers
        self.slot_bytes, self.lost = slot_bytes, False
        self.name = secrets.token_hex(16)
        _start_tracker()
        self._memory = shared_memory.SharedMemory(f"rtool-{secrets.token_hex(8)}", create=True, size=slot_bytes * slots)
        try:
            _reserve(self._memory, slot_bytes * slots)
        except OSError:
            self._drop()
            raise
        self._free = list(range(slots))
        self._slots, self._lock, self._closed, self._gone = slots, Lock(), False, False
        try:
            client.register_system_shared_memory(
                self.name, f"/{self._memory.name}", slot_bytes * slots, headers=dict(headers), client_timeout=_SECONDS
            )
        except BaseException:
            self.close()
            raise

    def bytes_at(self, number: int) -> memoryview:
        """The memory of one slot."""
        start, buffer = number * self.slot_bytes, self._memory.buf
        assert buffer is not None  # only after `close`
        return buffer[start : start + self.slot_bytes]

    def take(self) -> Slot | None:
        """A free slot; None where all are in use."""
        with self._lock:
            usable = self._free and not (self.lost or self._closed)
            return Slot(self, self._free.pop()) if usable else None

    def give_back(self, number: int) -> None:
        """Make the slot free again."""
        with self._lock:
            self._free.append(number)
            unused = len(self._free) == self._slots
        if unused and (self.lost or self._closed):
            Thread(target=self.close, daemon=True).start()  # gRPC's own thread, which may be this, must not wait

    def close(self) -> None:
        """Remove the region, now or when the last slot is given back."""
        from tritonclient.utils import InferenceServerException

        with self._lock:
            self._closed = True
            if self._gone or len(self._free) < self._slots:
                return
            self._gone = True
        for attempt in range(_UNREGISTER if self.lost else 1):
            time.sleep(attempt)  # while the server still reads it, it stays registered
            with suppress(InferenceServerException, ValueError):  # the second: the connection is closed
                self._client.unregister_system_shared_memory(
                    self.name, headers=dict(self._headers), client_timeout=_SECONDS
                )
                break
        self._drop()

    def _drop(self) -> None:
        self._memory.close()
        with suppress(FileNotFoundError):
            self._memory.unlink()


def _start_tracker() -> None:
    """Start Python's process that removes shared memory after a kill, without modules of the working folder.

    It is a `python -c`, which looks there first; others may be able to write into that folder.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _reserve(memory: shared_memory.SharedMemory, size: int) -> None:
    """Take the pages from the system now: a write into memory that it does not have ends a program by SIGBUS.

    Raises:
        OSError: there are not enough; containers often have 64 MB.
    """
    if sys.platform == "linux":
        descriptor = os.open(f"/dev/shm/{memory.name}", os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)


class SharedSlots:
    """Slots of one size for the requests of one connection; `take` gives None where there are none, for any reason.

    Args:
        client: tritonclient's gRPC client.
        url: host:port; only a loopback host can be this machine.
        slot_bytes: Bytes of the inputs of one request.
        slots: Requests that may be on their way at once.
    """

    def __init__(self, client: Any, url: str, *, slot_bytes: int, slots: int) -> None:
        self._client, self._url = client, url
        self.slot_bytes, self._slots = slot_bytes, slots
        self._region: _Region | None = None
        self._lock = Lock()
        self.refused = "" if split_address(url)[0] in _LOOPBACK else f"{url} is not this machine"
        """Why requests do not go through shared memory; "" where they do."""
        self._next_try = float("inf") if self.refused else 0.0

    def take(self) -> Slot | None:
        """A slot, or None: the server refuses, or all are in use."""
        with self._lock:
            if self._region is not None and self._region.lost:
                self._region, self._next_try = None, time.monotonic() + _AGAIN_SECONDS
            if self._region is None and time.monotonic() >= self._next_try:
                self._region = self._make()
            region = self._region
        return None if region is None else region.take()

    def close(self) -> None:
        """Remove the region, as soon as no request uses it."""
        with self._lock:
            region, self._region, self._next_try = self._region, None, float("inf")
        if region is not None:
            region.close()

    def _make(self) -> _Region | None:
        from tritonclient.utils import InferenceServerException

        try:
            region = _Region(self._client, grpc_headers(self._url), self.slot_bytes, self._slots)
        except (InferenceServerException, OSError) as error:
            self.refused = f"the server does not take shared memory: {error}"
            self._next_try = float("inf")
            return None
        self.refused = ""
        return region
