"""kill -9 of stubs, of Triton, of `rtool serve`, with frames on their way: what serves, what is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc as triton

from ...serving.publishing.packing import deploy_packer
from ...serving.publishing.publishing import deploy
from .drill_models import DrillModels
from .frames import Frames, run_frames
from .kills import Served, answers_as, deploy_first
from .process_tree import alive, family, gone, wait_until

__all__ = ["ServerKill", "kill_server_parts"]

_BACK_SECONDS = 60.0
_END_SECONDS = 40.0
"""Triton gives requests on their way 30 s to end in order, and the supervisor the stubs of a replaced model."""
_IN_FLIGHT = 16


@dataclass(frozen=True)
class ServerKill:
    """`what` was killed; seconds until answers were right again (None: not within 60 s), and what was left of it.

    `ended` are the seconds until its processes were gone; `orphans` of them ran on, 40 s later. `left` are temporary
    folders and shared memory after the next start.
    """

    what: str
    back: float | None
    ended: float | None
    orphans: int
    left: tuple[str, ...]


def kill_server_parts(models: DrillModels, repository: Path, *, times: int = 3) -> list[ServerKill]:
    """Kill each part of a supervised server, then the supervisor, alone and with Triton, each `times` times.

    Meanwhile frames go through a packer, so that stubs wait for each other's answers when their server ends.
    """
    deploy_first(models.files["A"], repository)
    deploy(models.files["A16"], name="fixed", repository=repository, device="cpu")
    deploy_packer("fixed", name="pack", repository=repository)
    results = []
    served = Served(repository)
    try:
        for what, part in (
            ("a stub", "m"),
            ("a packer's stub", "pack"),
            ("its target's stub", "fixed"),
            ("tritonserver", "tritonserver"),
        ):
            for _ in range(times):
                with _frames(models, served.url):
                    results.append(_kill_part(models, served, what, part))
        for what, also in (("rtool serve", ()), ("rtool serve and tritonserver", ("tritonserver",))):
            for _ in range(times):
                result, served = _kill_supervisor(models, served, repository, what, also)
                results.append(result)
    finally:
        served.stop()
    return results


def _kill_part(models: DrillModels, served: Served, what: str, part: str) -> ServerKill:
    old = served.parts(part)
    before = [pid for one in old for pid in family(one)]
    os.kill(old[0], signal.SIGKILL)

    def replaced() -> bool:
        """A model with two stubs goes on answering through the other one until both are new."""
        return bool(set(served.parts(part)) - set(old)) and _right(models, served.url)

    back = wait_until(replaced, _BACK_SECONDS)
    ended = wait_until(partial(gone, before), _END_SECONDS)
    return ServerKill(what, back, ended, sum(map(alive, before)), ())


def _kill_supervisor(
    models: DrillModels, served: Served, repository: Path, what: str, also: Sequence[str]
) -> tuple[ServerKill, Served]:
    """Also returns the server that was started afterwards, which has swept what was left."""
    whole = family(served.process.pid)
    traces = _traces(served.process.pid)
    with _frames(models, served.url):
        for pid in (served.process.pid, *(pid for name in also for pid in served.parts(name))):
            os.kill(pid, signal.SIGKILL)
        served.process.wait()
        ended = wait_until(partial(gone, whole), _END_SECONDS)
    orphans = sum(map(alive, whole))
    again = Served(repository)
    left = tuple(path.name for path in traces if path.exists())
    return ServerKill(what, 0.0 if _right(models, again.url) else None, ended, orphans, left), again


@contextmanager
def _frames(models: DrillModels, url: str) -> Iterator[None]:
    """A process that keeps frames of 1 to 5 crops on their way through the packer, which come back at its end."""
    sizes = np.random.default_rng(0).integers(1, 6, 400).tolist()
    spawn = multiprocessing.get_context("spawn")
    ended = spawn.Event()
    process = spawn.Process(target=_keep_sending, args=(url, Frames(["pack"], models.images, sizes), ended))
    before = _answered(url)
    process.start()
    try:
        if wait_until(lambda: _answered(url) > before + _IN_FLIGHT, 30) is None:
            raise RuntimeError(f"no frames reach the packer at {url}")
        yield
    finally:
        ended.set()
        process.join()


def _keep_sending(url: str, frames: Frames, ended: Event) -> None:
    while not ended.is_set():
        run_frames(url, frames, seconds=1.0, concurrency=_IN_FLIGHT, warm=0.0)


def _answered(url: str) -> int:
    """Frames that the packer has answered since it was loaded."""
    with triton.InferenceServerClient(url) as client:
        counts: Any = client.get_inference_statistics("pack")
    return int(counts.model_stats[0].inference_stats.success.count)


def _right(models: DrillModels, url: str) -> bool:
    return all(answers_as(models, file, url, name)() for file, name in (("A", "m"), ("A16", "pack")))


def _traces(pid: int) -> list[Path]:
    """The shared memory and the temporary folders that a server of process `pid` has."""
    temporary = Path(tempfile.gettempdir())
    return [*Path("/dev/shm").glob(f"rtool_{pid}_*"), *temporary.glob(f"rtool-triton-{pid}-*")]
