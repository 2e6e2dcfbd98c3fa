"""kill -9 of the publisher at many points, of a stub, of Triton, of `rtool serve`: what serves then, what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import PlatformError, RtoolError
from ...serving.client.client import TritonClient
from ...serving.publishing.publication import leftovers
from ...serving.repository.model_config import read_config, served_versions
from ...serving.repository.validation import validate_model
from .drill_models import DrillModels, golden, nearest_of
from .process_tree import alive, family, name_of, wait_until

__all__ = [
    "PublisherKill",
    "Served",
    "ServerKill",
    "answers_as",
    "deploy_first",
    "gone",
    "is_ready",
    "kill_publishers",
    "kill_server_parts",
    "run_deploy",
]

_SWEPT_SECONDS = 15.0
_BACK_SECONDS = 60.0


@dataclass(frozen=True)
class PublisherKill:
    """A publisher killed `after` seconds.

    `live` and `disk` are A, B or None: whose answers the server gives, whose file would be served next; `problems` is a
    count of the repository's; `swept` are the seconds until nothing of the publisher was left, None: not in 15 s.
    """

    after: float
    killed: bool
    live: str | None
    disk: str | None
    problems: int
    ready: bool
    swept: float | None

    @property
    def good(self) -> bool:
        """The old or the new version, whole, and nothing left."""
        return None not in (self.live, self.disk, self.swept) and self.ready and not self.problems


@dataclass(frozen=True)
class ServerKill:
    """`what` was killed; seconds until answers were right again (None: not within 60 s), and what was left of it."""

    what: str
    back: float | None
    orphans: int
    left: tuple[str, ...]


class Served:
    """`rtool serve` on a repository as a process of its own, on free ports."""

    def __init__(self, repository: Path) -> None:
        command = [sys.executable, "-m", "rtool", "serve", str(repository), "--json"]
        command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: list[str] = []
        assert self.process.stdout is not None
        while not lines or lines[-1] != "}\n":
            lines.append(self.process.stdout.readline())
            if not lines[-1]:
                raise RuntimeError(f"rtool serve {repository} ended with {self.process.wait()}")
        said: dict[str, Any] = json.loads("".join(lines))
        self.url, self.http_url = str(said["url"]), str(said["http_url"])

    def part(self, name: str) -> int:
        """The process id of Triton, or of one of its stubs."""
        return next(pid for pid in family(self.process.pid)[1:] if name_of(pid).startswith(name))

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.process.wait(60)


def kill_publishers(models: DrillModels, repository: Path, *, points: int, seed: int = 7) -> list[PublisherKill]:
    """Publish A and B in turn through `rtool deploy --url`, each killed at a random moment of what it needs whole."""
    wanted = {name: golden(models.files[name], models.images[:16]) for name in "AB"}
    deploy_first(models.files["A"], repository)
    served = Served(repository)
    drawn, results = random.Random(seed), []
    try:
        began = time.monotonic()
        run_deploy(models.files["B"], repository, url=served.url)
        whole = time.monotonic() - began
        for index in range(points):
            after = drawn.uniform(0.2, 1.0) * whole
            killed = _publish_and_kill(models.files["AB"[index % 2]], repository, served.url, after)
            swept = wait_until(lambda: not leftovers(repository), _SWEPT_SECONDS)
            results.append(_judged(models, wanted, repository, served, after, killed, swept))
        run_deploy(models.files["A"], repository, url=served.url)  # the next publisher is not in its way
    finally:
        served.stop()
    return results


def run_deploy(file: Path, repository: Path, *, url: str | None, more: Sequence[str] = (), name: str = "m") -> int:
    """`rtool deploy` to its end; returns the exit code."""
    return subprocess.run(_deploy(file, repository, url, more, name), capture_output=True, check=False).returncode


def deploy_first(file: Path, repository: Path) -> None:
    """Publish what a drill starts from.

    Raises:
        PlatformError: `rtool deploy` failed; with what it said.
    """
    done = subprocess.run(_deploy(file, repository, None, (), "m"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise PlatformError(f"the drill has no model to begin with, rtool deploy failed: {done.stderr.strip()}")


def _deploy(file: Path, repository: Path, url: str | None, more: Sequence[str], name: str) -> list[str]:
    command = [sys.executable, "-m", "rtool", "deploy", str(file), "--name", name, "--repository", str(repository)]
    return [*command, "--device", "cpu", "-q", *(["--url", url] if url is not None else []), *more]


def _publish_and_kill(file: Path, repository: Path, url: str, after: float) -> bool:
    process = subprocess.Popen(
        _deploy(file, repository, url, ["--keep", "3"], "m"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def _judged(
    models: DrillModels,
    wanted: dict[str, Any],
    repository: Path,
    served: Served,
    after: float,
    killed: bool,
    swept: float | None,
) -> PublisherKill:
    folder = repository / "m"
    try:
        with TritonClient(served.url, "m") as client:
            live = nearest_of(client.run(models.images[:16])[0], wanted)
    except RtoolError:
        live = None
    version = max(served_versions(read_config(folder / "config.pbtxt")))
    disk = nearest_of(golden(folder / f"{version}/model.onnx", models.images[:16]), wanted)
    ready = wait_until(lambda: is_ready(served.http_url), _SWEPT_SECONDS) is not None
    return PublisherKill(round(after, 2), killed, live, disk, len(validate_model(folder)), ready, swept)


def is_ready(http_url: str) -> bool:
    """Whether `/v2/health/ready` answers 200."""
    from ...serving.server.server import is_ready as ready

    return ready(int(http_url.rpartition(":")[2]))


def answers_as(models: DrillModels, file: str, url: str) -> Callable[[], bool]:
    """A condition: the server at `url` gives the answers of `file`."""
    expected = {file: golden(models.files[file], models.images[:16])}

    def right() -> bool:
        try:
            with TritonClient(url, "m", timeout=5) as client:
                return nearest_of(client.run(models.images[:16])[0], expected) == file
        except RtoolError:
            return False

    return right


def kill_server_parts(models: DrillModels, repository: Path) -> list[ServerKill]:
    """Kill a stub, then Triton, under `rtool serve`, then `rtool serve` itself, and look what is left."""
    deploy_first(models.files["A"], repository)
    served, results = Served(repository), []
    try:
        for what, program in (("a stub", "triton_python"), ("tritonserver", "tritonserver")):
            pid = served.part(program)
            before = family(pid)
            os.kill(pid, signal.SIGKILL)
            wait_until(partial(gone, [pid]), 5)
            back = wait_until(answers_as(models, "A", served.url), _BACK_SECONDS)
            wait_until(partial(gone, before), 5)
            results.append(ServerKill(what, back, sum(map(alive, before)), ()))
        whole = family(served.process.pid)
        shared, scratch = _traces(served.process.pid)
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        wait_until(lambda: not any(map(alive, whole)), 20)
        served = Served(repository)  # the next start sweeps
        left = tuple(path.name for path in (*shared, *scratch) if path.exists())
        results.append(
            ServerKill(
                "rtool serve", 0.0 if answers_as(models, "A", served.url)() else None, sum(map(alive, whole)), left
            )
        )
    finally:
        served.stop()
    return results


def gone(pids: Sequence[int]) -> bool:
    """Whether none of the processes runs any more."""
    return not any(map(alive, pids))


def _traces(pid: int) -> tuple[list[Path], list[Path]]:
    """The shared memory and the temporary folders that a server of process `pid` has."""
    import tempfile

    memory, temporary = Path("/dev/shm"), Path(tempfile.gettempdir())
    return [*memory.glob(f"rtool_{pid}_*")], [*temporary.glob(f"rtool-triton-{pid}-*")]
