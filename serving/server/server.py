"""A Triton server as a context manager: on free loopback ports, ready when entered, stopped when left.

    with TritonServer("model_repository") as server:
        client = TritonClient(server.url, "osnet_x0_25_b16")

Binds to 127.0.0.1 only; what changes the server needs a key, see `access.py`. Not done: TLS, several hosts, restart
after a crash (`supervision.py` does that for `rtool serve`).
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ...converters.runtime.calling.waiting import announced
from ...errors import InputError, PlatformError
from ..publishing.on_server.leftovers import sweep
from ..repository.repository import model_folders
from ..repository.validation import require_valid, servable_models
from ..repository.variants.tensorrt import CACHE_FOLDER
from .access import Access
from .command import Control, server_command
from .embedded import Triton, compose_backends, find_triton, release_note
from .engine_folder import own_engine_folder
from .ports import HOST, HeldPorts, Ports, choose_ports
from .process import ChildProcess
from .remains import memory_prefix, remove_memory, scratch_folder, sweep_dead

__all__ = ["Control", "TritonServer", "dry_run", "is_ready"]

_ATTEMPTS = 3
_METRICS_SECONDS = 0.5
_METRICS_TAKEN = "Started Metrics Service"
_LINES = 40
_PLAIN = re.compile(r"[A-Za-z0-9_./+@:,=%-]+")


class TritonServer:
    """One server on one repository.

    `control` is Triton's `--model-control-mode`: "explicit" loads `models`, or all that have weights, and accepts load
    requests (`rtool deploy --url` needs it); "none" loads the whole repository once; "poll" loads the whole repository
    and looks for changes every `poll_seconds`. `config_name` selects `configs/<name>.pbtxt` (cpu, gpu) where a model
    has it. Port 0 selects a free port. `startup_timeout` and `stop_timeout` are in seconds; after the latter the server
    is killed. `log` is the file to which the server's output is appended.

    Raises:
        InputError: the repository is not a folder, has no weights, or `models` is given without "explicit" control.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        models: Sequence[str] | None = None,
        control: Control = "explicit",
        config_name: str | None = None,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        poll_seconds: int = 1,
        startup_timeout: float = 120.0,
        stop_timeout: float = 15.0,
        log: str | Path | None = None,
        triton: Triton | None = None,
    ) -> None:
        self.repository = Path(repository)
        self.control: Control = control
        self.config_name = config_name
        self._asked_models = models
        self.models = _models_to_serve(self.repository, models, control)
        self.served_path = self.repository.absolute()
        """The repository as Triton was given it."""
        self.ready_seconds = 0.0
        self.release_note = ""
        """What the release of the running server lacks; empty before the start and when nothing is known to be."""
        self.asked_ports = (http_port, grpc_port, metrics_port)
        self._ports = self.asked_ports
        self._held = HeldPorts()
        self._poll_seconds = poll_seconds
        self._startup_timeout = startup_timeout
        self._stop_timeout = stop_timeout
        self._log = Path(log) if log is not None else None
        self._triton = triton
        self._process: ChildProcess | None = None
        self._access: Access | None = None
        self._scratch: Path | None = None
        self._memory_prefix = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """host:port of the gRPC endpoint, as in `TritonClient(url, ...)` and `triton://url/model`."""
        return f"{HOST}:{self._ports[1]}"

    @property
    def http_url(self) -> str:
        """host:port of the HTTP endpoint."""
        return f"{HOST}:{self._ports[0]}"

    @property
    def metrics_url(self) -> str:
        """host:port of the Prometheus endpoint (`/metrics`); port 0 where it was restarted without one."""
        return f"{HOST}:{self._ports[2]}"

    @property
    def kind(self) -> str:
        """Which server runs: `path` or `embedded`."""
        return "embedded" if (self._triton or find_triton(fetch=False)).embedded else "path"

    @property
    def process(self) -> ChildProcess:
        """The running server process.

        Raises:
            PlatformError: the server is not running.
        """
        if self._process is None:
            raise PlatformError("the Triton server is not running; enter its `with` block first")
        return self._process

    def start(self) -> None:
        """Start the server and wait until every model is ready.

        Raises:
            InputError: the repository or a model in it is not valid, or a model fails to load.
            PlatformError: no Triton, a port in use, or not ready within `startup_timeout`.
        """
        if self._process is not None:
            raise PlatformError(f"{self.repository}: this Triton server already runs on {self.url}")
        self._start_on(self.asked_ports)

    def restart(self) -> None:
        """Stop what is left of the server and start it again on the same ports, with the models that there are now.

        Raises:
            InputError, PlatformError: as `start`; the server is then stopped, and can be restarted later.
        """
        ports = (*self._ports[:2], self.asked_ports[2] or self._ports[2])
        self._end()
        self.models = _models_to_serve(self.repository, self._asked_models, self.control)
        self._start_on(ports)

    def _start_on(self, asked: Ports) -> None:
        sweep_dead()
        sweep(self.repository)
        require_valid(self.repository, self.models, config_name=self.config_name, whole=self.control != "explicit")
        configurations = [folder.variant_path(self.config_name) for folder in model_folders(self.repository)]
        own_engine_folder(Path(CACHE_FOLDER), configurations)
        triton = self._triton or find_triton()
        self.release_note = release_note(triton)
        again = self._held.taken
        for attempt in range(_ATTEMPTS):
            if again:  # a server that was up must not stay down for its metrics port, which anybody may bind
                self._ports = (*asked[:2], 0 if attempt else _metrics_port(asked[2]))
            else:
                self._ports = choose_ports(asked)
            last = attempt + 1 == _ATTEMPTS or (attempt > 0 if again else 0 not in asked)
            try:
                if not again:
                    self._held.take(self._ports)
                self._start_once(triton)
            except BaseException as error:
                if again:
                    self._end()  # the ports stay this user's until the next attempt
                else:
                    self.stop()
                if last or "in use" not in str(error):
                    raise
                continue  # another program bound the free port before Triton did
            return

    def _start_once(self, triton: Triton) -> None:
        began = time.monotonic()
        self._scratch = scratch_folder()
        self.served_path = _plain_path(self.repository.absolute(), self._scratch)
        self._memory_prefix = memory_prefix()
        command = server_command(
            triton,
            self.served_path,
            models=self.models,
            control=self.control,
            ports=self._ports,
            backends=compose_backends(triton) if triton.embedded else None,
            config_name=self.config_name,
            poll_seconds=self._poll_seconds,
            memory_prefix=self._memory_prefix,
            metrics=self._ports[2] != 0,
        )
        log = self._log or self._scratch / "triton.log"
        self._access = Access(self.repository, self._ports)
        self._access.publish()  # before anybody can find the server ready: the ports are this user's already
        self._process = ChildProcess(
            command, triton.environment(), log, hidden=self._access.arguments(), program="tritonserver"
        )
        with announced(f"Triton to load {', '.join(self.models)}, {self._startup_timeout:g} s at most"):
            self._wait_ready(began)
        self.ready_seconds = time.monotonic() - began

    def _wait_ready(self, began: float) -> None:
        while not is_ready(self._ports[0]) or self._ends_for_metrics():
            code = self.process.exit_code()
            if code is not None:
                raise _startup_error(self.repository, self.process, f"Triton ended with exit code {code}")
            if time.monotonic() - began > self._startup_timeout:
                reason = f"Triton was not ready within {self._startup_timeout:g} s"
                raise _startup_error(self.repository, self.process, reason)
            time.sleep(0.05)

    def _ends_for_metrics(self) -> bool:
        """Whether Triton, which is ready, is about to end: it takes its metrics port last, and ends where it cannot."""
        deadline = time.monotonic() + _METRICS_SECONDS
        while self._ports[2] and _METRICS_TAKEN not in self.process.tail(_LINES) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(_METRICS_SECONDS / 5 if self._ports[2] else 0)  # it says so some milliseconds before it tries
        return "failed to start Metrics" in self.process.tail(_LINES)

    def stop(self) -> None:
        """Stop the server and remove its temporary files; does nothing when it is not running."""
        self._end()
        self._held.release()

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop(self._stop_timeout)
            self._process = None
        if self._access is not None:
            self._access.remove()
            self._access = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        if self._memory_prefix:
            remove_memory(self._memory_prefix)


def _metrics_port(asked: int) -> int:
    """The port, or a free one where another program took it while the server was down: it must not stay down."""
    try:
        return choose_ports((0, 0, asked))[2]
    except PlatformError:
        return choose_ports((0, 0, 0))[2]


def _models_to_serve(repository: Path, models: Sequence[str] | None, control: Control) -> tuple[str, ...]:
    if control == "explicit":
        return tuple(models) if models is not None else servable_models(repository)
    if models is not None:
        raise InputError(f"--control {control} serves the whole repository; name models with --control explicit only")
    return tuple(folder.name for folder in model_folders(repository))


def is_ready(port: int) -> bool:
    """Whether the server on this HTTP port of the loopback address is ready, models included."""
    with (
        closing(http.client.HTTPConnection(HOST, port, timeout=2)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    return False


def _plain_path(repository: Path, scratch: Path) -> Path:
    """The repository's path, or a link to it where the path has characters that a shell takes for its own.

    The Python back end starts its stub by a shell and does not quote the path: the stub gets other arguments and dies.
    """
    if _PLAIN.fullmatch(str(repository)):
        return repository
    link = scratch / "repository"
    link.symlink_to(repository, target_is_directory=True)
    return link


def _startup_error(repository: Path, process: ChildProcess, reason: str) -> InputError | PlatformError:
    complaints = process.complaints()
    kind = InputError if "failed to load" in complaints or "load failed" in complaints else PlatformError
    way_out = "\nServe the CPU configurations with --config-name cpu." if "no GPUs are available" in complaints else ""
    return kind(f"{repository}: {reason}; its log says:\n{complaints}{way_out}")


def dry_run(server: TritonServer) -> str:
    """The command line that `server` would start, quoted for a shell; downloads and starts nothing.

    Raises:
        PlatformError: there is no Triton for this machine.
    """
    triton = find_triton(fetch=False)
    backends = triton.root.with_name("backends-...") if triton.root is not None else None
    command = server_command(
        triton,
        server.repository,
        models=server.models,
        control=server.control,
        ports=server.asked_ports,
        backends=backends,
        config_name=server.config_name,
    )
    environment = triton.environment()
    inherited = os.pathsep + os.environ.get("PATH", "")
    changed = [
        f"LD_LIBRARY_PATH={environment['LD_LIBRARY_PATH']}",
        f"PATH={environment['PATH'].removesuffix(inherited)}:$PATH",
    ]
    if not triton.embedded:
        changed = []
    return " \\\n  ".join([*changed, *(shlex.quote(part) for part in command)])
