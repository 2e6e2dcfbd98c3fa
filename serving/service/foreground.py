"""`rtool serve`: a Triton in the foreground, kept serving (`server/supervision.py`) until Ctrl-C or SIGTERM.

A handler turns SIGTERM into the KeyboardInterrupt that Ctrl-C raises, so that both end the same way: the server gets
SIGTERM, time to finish its requests, and is gone when this returns.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ...converters.runtime.calling.access_key import process_started
from ...errors import PlatformError
from ..server.command import Control
from ..server.embedded import Triton
from ..server.server import TritonServer
from ..server.supervision import Supervisor
from .records import ServiceRecord, forget, remember, service_id

__all__ = ["ServeResult", "serve", "terminate_like_ctrl_c"]


@dataclass(frozen=True)
class ServeResult:
    """Where the server listened (host:port), what it served, and for how long. Times in seconds."""

    url: str
    http_url: str
    metrics_url: str
    models: tuple[str, ...]
    ready_seconds: float
    served_seconds: float
    restarts: int = 0
    """How often Triton ended by itself and was started again."""
    reloads: int = 0
    """How often a model was loaded again because the process that runs it had died."""


def serve(
    repository: str | Path = "model_repository",
    *,
    models: Sequence[str] | None = None,
    control: Control = "explicit",
    config_name: str | None = None,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    timeout: float = 120.0,
    log: str | Path | None = None,
    on_ready: Callable[[TritonServer], None] | None = None,
    on_event: Callable[[str], None] | None = None,
    triton: Triton | None = None,
) -> ServeResult:
    """Serve `repository` until Ctrl-C or SIGTERM; the arguments are those of `TritonServer`, `timeout` in seconds.

    `on_ready` is called once, with the running server; `on_event` with a line whenever Triton or the process of a model
    died, and when it serves again. Port 0 selects a free port. `triton` is the server to run, by default the first that
    `find_triton` finds. While it runs, `overview.py` knows it.

    Raises:
        InputError: the repository or a model cannot be served.
        PlatformError: no Triton, a port in use, or not ready within `timeout` at the first start.
    """
    server = TritonServer(
        repository,
        models=models,
        control=control,
        config_name=config_name,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        startup_timeout=timeout,
        log=log,
        triton=triton,
    )
    with terminate_like_ctrl_c(), server:
        began = time.monotonic()
        record = _record(server, log)
        remember(record)

        def tell(line: str) -> None:
            counts = {"restarts": supervisor.restarts, "reloads": supervisor.reloads}
            with suppress(OSError, PlatformError):  # a full disk; the line is said all the same
                remember(record.at(**counts, metrics_url=server.metrics_url, last_event=line))
            if on_event is not None:
                on_event(line)

        supervisor = Supervisor(server, tell)
        try:
            with suppress(KeyboardInterrupt):
                if on_ready is not None:
                    on_ready(server)
                supervisor.watch()
        finally:
            forget(record)
        return _result(server, supervisor, time.monotonic() - began)


def _result(server: TritonServer, supervisor: Supervisor, seconds: float) -> ServeResult:
    return ServeResult(
        url=server.url,
        http_url=server.http_url,
        metrics_url=server.metrics_url,
        models=server.models,
        ready_seconds=server.ready_seconds,
        served_seconds=seconds,
        restarts=supervisor.restarts,
        reloads=supervisor.reloads,
    )


def _record(server: TritonServer, log: str | Path | None) -> ServiceRecord:
    pid = os.getpid()
    port = int(server.http_url.rpartition(":")[2])
    return ServiceRecord(
        id=service_id(server.repository, port),
        repository=str(server.repository.resolve()),
        pid=pid,
        started=process_started(pid) or 0,
        kind=server.kind,
        url=server.url,
        http_url=server.http_url,
        metrics_url=server.metrics_url,
        models=server.models,
        log=str(Path(log).resolve()) if log is not None else None,
    )


@contextmanager
def terminate_like_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
