"""`rtool serve --status`, `--stop` and `--logs`: what runs, ended, and what it said."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...converters.runtime.calling.access_key import grpc_headers
from ...converters.runtime.calling.waiting import announced
from ...errors import InputError, PlatformError
from ..repository.repository import CANDIDATE_PREFIX
from .records import ServiceRecord, forget, services

__all__ = ["ServiceLog", "ServiceState", "StoppedService", "service_log", "service_states", "stop_service"]

State = Literal["ready", "not ready", "ended"]
_ASK_SECONDS = 2.0
_STOP_SECONDS = 40.0
"""Longer than the 15 s that a Triton gets to finish its requests."""


@dataclass(frozen=True)
class ServiceState:
    """A server and its state: `ready`, `not ready` (starting, restarting, loading), or `ended` by itself."""

    state: State
    service: ServiceRecord


@dataclass(frozen=True)
class StoppedService:
    """A server that was stopped; `seconds` is how long it took, `killed` whether it had to be. 0 where it had ended."""

    service: ServiceRecord
    seconds: float
    killed: bool


@dataclass(frozen=True)
class ServiceLog:
    """The end of a server's log."""

    service: ServiceRecord
    lines: tuple[str, ...]


def service_states(asked: str | None = None) -> tuple[ServiceState, ...]:
    """The servers of this user, or those of one repository or id, `asked`; empty where there are none."""
    return tuple(ServiceState(_state(record), record) for record in _asked(asked))


def stop_service(asked: str | None = None) -> StoppedService:
    """Stop one server: of a repository, of an id, or the only one. Waits until it is gone.

    Raises:
        InputError: there is none, or there are several to choose from.
        PlatformError: it could not be ended.
    """
    record = _one(asked, "stop")
    began, killed = time.monotonic(), False
    if record.alive:
        with announced(f"{record.id} to stop, {_STOP_SECONDS:g} s at most"):
            for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5.0)):
                killed = number == signal.SIGKILL
                with suppress(ProcessLookupError):
                    os.kill(record.pid, number)
                if _gone(record, seconds):
                    break
            else:
                raise PlatformError(f"{record.id}: process {record.pid} does not end")
    forget(record)
    return StoppedService(record, time.monotonic() - began, killed)


def service_log(asked: str | None = None, *, lines: int = 200) -> ServiceLog:
    """The last `lines` lines of a server's log; also of one that ended by itself.

    Raises:
        InputError: there is no such server, there are several, or it keeps no log.
    """
    record = _one(asked, "show the log of")
    if record.log is None or not Path(record.log).is_file():
        raise InputError(f"{record.id}: keeps no log; start it with --detach or with --log FILE")
    with open(record.log, errors="replace") as file:
        return ServiceLog(record, tuple(line.rstrip("\n") for line in deque(file, maxlen=lines)))


def _asked(asked: str | None) -> Sequence[ServiceRecord]:
    found = services()
    if asked is None:
        return found
    folder = str(Path(asked).resolve())
    return [record for record in found if asked == record.id or record.repository == folder]


def _one(asked: str | None, verb: str) -> ServiceRecord:
    found = _asked(asked)
    if len(found) == 1:
        return found[0]
    if not found:
        others = ", ".join(record.id for record in services()) or "none"
        of = f" of {asked}" if asked is not None else ""
        raise InputError(f"serve: no server{of} to {verb}; this user's servers: {others}")
    raise InputError(f"serve: which one to {verb}? Give one of {', '.join(record.id for record in found)}")


def _state(record: ServiceRecord) -> State:
    if not record.alive:
        return "ended"
    host, _, port = record.http_url.rpartition(":")
    with (
        closing(http.client.HTTPConnection(host, int(port), timeout=_ASK_SECONDS)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        connection.request("GET", "/v2/health/ready")
        return "ready" if connection.getresponse().status == 200 or _only_unloads(record.url) else "not ready"
    return "not ready"


def _only_unloads(url: str) -> bool:
    """Whether the server is "not ready" only because versions are being unloaded that nobody is served any more.

    Triton's door is strict: it asks each version of each model to be ready, or unloaded already
    (`InferenceServer::IsReady` in `src/server.cc` of its core), and a back end takes seconds to end.
    """
    from tritonclient import grpc as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(url)
    try:
        entries = client.get_model_repository_index(headers=dict(grpc_headers(url)), client_timeout=_ASK_SECONDS).models
    except InferenceServerException:
        return False
    finally:
        client.close()
    served = {entry.name for entry in entries if entry.state == "READY"}
    others = [entry for entry in entries if entry.state not in ("", "READY") and entry.reason != "unloaded"]
    unloading = [entry for entry in others if entry.state == "UNLOADING"]
    return (
        bool(unloading)
        and len(unloading) == len(others)
        and all(entry.name in served or entry.name.startswith(CANDIDATE_PREFIX) for entry in unloading)
    )


def _gone(record: ServiceRecord, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while record.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    return not record.alive
