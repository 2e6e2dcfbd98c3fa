"""`rtool serve`: a Triton in the foreground, kept serving (`supervision.py`) until Ctrl-C or SIGTERM.

A handler turns SIGTERM into the KeyboardInterrupt that Ctrl-C raises, so that both end the same way: the server gets
SIGTERM, time to finish its requests, and is gone when this returns.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .command import Control
from .server import TritonServer
from .supervision import Supervisor

__all__ = ["ServeResult", "serve"]


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
) -> ServeResult:
    """Serve `repository` until Ctrl-C or SIGTERM; the arguments are those of `TritonServer`, `timeout` in seconds.

    `on_ready` is called once, with the running server; `on_event` with a line whenever Triton or the process of a model
    died, and when it serves again. Port 0 selects a free port.

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
    )
    with _terminate_like_ctrl_c(), server:
        began = time.monotonic()
        supervisor = Supervisor(server, on_event or _ignore)
        with suppress(KeyboardInterrupt):
            if on_ready is not None:
                on_ready(server)
            supervisor.watch()
        return ServeResult(
            url=server.url,
            http_url=server.http_url,
            metrics_url=server.metrics_url,
            models=server.models,
            ready_seconds=server.ready_seconds,
            served_seconds=time.monotonic() - began,
            restarts=supervisor.restarts,
            reloads=supervisor.reloads,
        )


def _ignore(_: str) -> None:
    """The events of a caller who does not want them."""


@contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
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
