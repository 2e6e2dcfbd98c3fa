"""kill -9 of the publisher at many points: what serves then, what is left."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PlatformError, RtoolError
from ...serving.client.client import TritonClient
from ...serving.publishing.publication import leftovers
from ...serving.repository.model_config import read_config, served_versions
from ...serving.repository.validation import validate_model
from .drill_models import DrillModels, golden, nearest_of
from .process_tree import family, name_of, wait_until

__all__ = [
    "PublisherKill",
    "Served",
    "answers_as",
    "deploy_first",
    "is_ready",
    "kill_publishers",
    "run_deploy",
]

_SWEPT_SECONDS = 15.0
_STUB = "triton_python_b"  # as the kernel keeps it


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

    def parts(self, name: str) -> list[int]:
        """The process ids of Triton (`tritonserver`), or of the stubs of the model `name`."""
        found = []
        for pid in family(self.process.pid)[1:]:
            with suppress(OSError):  # it has ended meanwhile
                program = name_of(pid)
                if program == name or (program == _STUB and f"/{name}/" in Path(f"/proc/{pid}/cmdline").read_text()):
                    found.append(pid)
        return found

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


def answers_as(models: DrillModels, file: str, url: str, name: str = "m") -> Callable[[], bool]:
    """A condition: the model `name` of the server at `url` gives the answers of `file`."""
    expected = {file: golden(models.files[file], models.images[:16])}

    def right() -> bool:
        try:
            with TritonClient(url, name, timeout=5) as client:
                return nearest_of(client.run(models.images[:16])[0], expected) == file
        except RtoolError:
            return False

    return right
