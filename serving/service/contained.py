"""A repository served from NVIDIA's image: the container is watched and started again like the embedded server.

The docker client is a child of this process and ends with it, and the container with the client (`--rm`, signals are
passed on). Its output is the server's log. There was no container engine where this was written: it is tested with a
program that stands in for docker.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ...converters.runtime.calling.access_key import process_started
from ...converters.runtime.calling.waiting import announced
from ...errors import PlatformError
from ..server.access import Access
from ..server.container import KEY_VARIABLE, container_command
from ..server.ports import HOST, Ports, choose_ports
from ..server.process import ChildProcess
from ..server.remains import scratch_folder
from ..server.server import is_ready
from ..server.supervision import LONGEST_PAUSE
from .foreground import ServeResult, terminate_like_ctrl_c
from .records import ServiceRecord, forget, remember, service_id

__all__ = ["serve_in_container"]

_POLL_SECONDS = 0.2
_STOP_SECONDS = 40.0
_STEADY_SECONDS = 60.0


def serve_in_container(
    repository: Path,
    *,
    models: Sequence[str],
    control: str,
    config_name: str | None,
    ports: Ports,
    gpu: bool,
    timeout: float,
    log: Path | None = None,
    on_ready: Callable[[ServiceRecord], None] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> ServeResult:
    """Serve `models` until Ctrl-C or SIGTERM; a container that ends by itself is started again, with longer pauses.

    Raises:
        InputError: a port number outside 0..65535, or the same number twice.
        PlatformError: no docker, a port in use, or not ready within `timeout` seconds at the first start.
    """
    ports = choose_ports(ports)
    command = container_command(
        repository, models=models, control=control, config_name=config_name, ports=ports, gpu=gpu
    )
    engine = shutil.which(command[0])
    if engine is None:
        raise PlatformError(f"{command[0]} is not on PATH; install it, or run the printed command where it is")
    command[0] = str(Path(engine).absolute())
    scratch = scratch_folder()
    log = log or scratch / "container.log"
    container = _Container(command, repository, log, ports)
    record = _record(repository, models, ports, log)
    say = on_event or (lambda _: None)
    with terminate_like_ctrl_c():
        try:
            began = time.monotonic()
            container.start(timeout)
            ready_seconds = time.monotonic() - began
            remember(record)
            restarts = 0
            with suppress(KeyboardInterrupt):
                if on_ready is not None:
                    on_ready(record)
                while True:
                    time.sleep(_POLL_SECONDS)
                    if container.mend(say, timeout):
                        restarts += 1
                        with suppress(OSError, PlatformError):  # a full disk
                            remember(record.at(restarts=restarts, last_event="the container serves again"))
            served = time.monotonic() - began
            urls = (record.url, record.http_url, record.metrics_url)
            return ServeResult(*urls, tuple(models), ready_seconds, served, restarts)
        finally:
            container.stop()
            forget(record)
            shutil.rmtree(scratch, ignore_errors=True)


class _Container:
    """The docker client of one container, its key, and how often it failed in a row.

    Its ports are free while it is down, and anybody may listen there then. So each start has a key of its own, which
    clients find only while the container runs.
    """

    def __init__(self, command: Sequence[str], repository: Path, log: Path, ports: Ports) -> None:
        self._command, self._repository, self._log, self._ports = command, repository, log, ports
        self._process: ChildProcess | None = None
        self._access: Access | None = None
        self._failures, self._begun = 0, time.monotonic()

    def start(self, timeout: float) -> None:
        access = Access(self._repository, self._ports)
        process = ChildProcess(self._command, {**os.environ, KEY_VARIABLE: access.key.key}, self._log)
        self._process = process
        self._begun = deadline = time.monotonic()
        deadline += timeout
        with announced(f"the container to be ready, {timeout:g} s at most"):
            while not is_ready(self._ports[0]) or process.exit_code() is not None:  # another program may answer
                code = process.exit_code()
                if code is not None or time.monotonic() > deadline:
                    reason = (
                        f"ended with exit code {code}" if code is not None else f"was not ready within {timeout:g} s"
                    )
                    complaints = process.complaints()
                    self.stop()
                    raise PlatformError(f"the container {reason}; it said:\n{complaints}")
                time.sleep(_POLL_SECONDS)
        self._access = access
        try:
            access.publish()
        except BaseException:
            self.stop()  # otherwise the next start would find this container ready, and publish another key for it
            raise

    def mend(self, say: Callable[[str], None], timeout: float) -> bool:
        """Start it again when it has ended; True when it was."""
        if self._process is None or (code := self._process.exit_code()) is None:
            return False
        self._withdraw()
        told, say = say, lambda line: _tell(told, line)
        say(f"the container ended by itself with exit code {code}")
        if time.monotonic() - self._begun > _STEADY_SECONDS:
            self._failures = 0
        while True:
            if self._failures:
                pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE)
                say(f"starting the container again in {pause:g} s")
                time.sleep(pause)
            self._failures += 1
            try:
                self.start(timeout)
            except Exception as error:  # a full disk too: whatever it is, it may pass
                say(str(error))
                continue
            say("the container serves again")
            return True

    def stop(self) -> None:
        self._withdraw()
        if self._process is not None:
            self._process.stop(_STOP_SECONDS)
            self._process = None

    def _withdraw(self) -> None:
        if self._access is not None:
            self._access.remove()
            self._access = None


def _tell(say: Callable[[str], None], line: str) -> None:
    with suppress(Exception):  # a terminal that is gone, a full disk: the server matters more
        say(line)


def _record(repository: Path, models: Sequence[str], ports: Ports, log: Path) -> ServiceRecord:
    pid = os.getpid()
    http_url, url, metrics_url = (f"{HOST}:{port}" for port in ports)
    return ServiceRecord(
        id=service_id(repository, ports[0]),
        repository=str(repository.resolve()),
        pid=pid,
        started=process_started(pid) or 0,
        kind="container",
        url=url,
        http_url=http_url,
        metrics_url=metrics_url,
        models=tuple(models),
        log=str(log.resolve()),
    )
