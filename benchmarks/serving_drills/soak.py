"""Minutes of load at 0.8 of saturation while versions are published, rolled back, and poisons are tried.

Every answer is compared with ONNX Runtime's in this process: all its rows must be those of A or of B. Memory is that of
Triton and its stubs, looked at right after each publish, when the version before has been unloaded.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drill_models import DrillModels, golden, nearest_of
from .frames import Frames, run_frames
from .kills import Served, deploy_first, is_ready, run_deploy
from .process_tree import family, pss_mib, wait_until

__all__ = ["SoakResult", "soak"]

_LOAD = 0.8
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class SoakResult:
    """Counts of requests, publishes and poisons, latencies in ms from the due time, memory in MiB by second.

    `slope` is the change of memory per minute, from minute 2 on, as a share of its mean: least squares.
    """

    seconds: float
    rate: float
    requests: int
    failed: int
    wrong: int
    publishes: int
    publishes_failed: int
    rollbacks: int
    poisons: dict[str, int]
    """Poison -> exit code of its publish; 0 would mean that it was served."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    memory: list[tuple[float, float]]
    slope: float | None
    ready_at_end: bool
    errors: dict[str, int]


class _Publisher(threading.Thread):
    """Publishes A and B in turn every `every` seconds, rolls back once, and offers a poison after each."""

    def __init__(self, models: DrillModels, repository: Path, served: Served, every: float) -> None:
        super().__init__()
        self.models, self.repository, self.served, self.every = models, repository, served, every
        self.stop = threading.Event()
        self.codes: list[int] = []
        self.rollbacks: list[int] = []
        self.poisons: dict[str, int] = {}
        self.memory: list[tuple[float, float]] = []

    def run(self) -> None:
        began, offered = time.monotonic(), list(self.models.poisons.items())
        triton = self.served.parts("tritonserver")[0]
        index = 0
        while not self.stop.wait(self.every if index else self.every / 3):
            if index == 3:
                self.rollbacks.append(self._roll_back())
            else:
                name = "BA"[index % 2]
                file, url = self.models.files[name], self.served.url
                self.codes.append(run_deploy(file, self.repository, url=url, more=["--keep", "3"]))
            if wait_until(lambda: is_ready(self.served.http_url), _SETTLE_SECONDS) is not None:
                # Ready means that the version before is gone: looked at earlier, its process would count too.
                self.memory.append((round(time.monotonic() - began, 1), round(pss_mib(family(triton)), 1)))
            name, file = offered[index % len(offered)]
            more = ["--new-contract", "--force"] if name in ("nan", "random") else []
            self.poisons[name] = run_deploy(file, self.repository, url=self.served.url, more=more)
            index += 1

    def _roll_back(self) -> int:
        command = [sys.executable, "-m", "rtool", "deploy", "--rollback", "--name", "m", "-q"]
        command += ["--repository", str(self.repository), "--url", self.served.url]
        return subprocess.run(command, capture_output=True, check=False).returncode


def soak(models: DrillModels, repository: Path, *, seconds: float, every: float, saturate: float = 4.0) -> SoakResult:
    """Load model `m` for `seconds`, with a publish `every` seconds; `saturate` is how long the rate is measured."""
    deploy_first(models.files["A"], repository)
    wanted = {name: golden(models.files[name], models.images) for name in "AB"}

    def right(_model: str, first: int, answer: NDArray[Any]) -> bool:
        part = {name: rows[first : first + len(answer)] for name, rows in wanted.items()}
        return nearest_of(answer, part) is not None

    sizes: Sequence[int] = np.random.default_rng(3).integers(1, 6, 4000).tolist()
    frames = Frames(["m"], models.images, sizes)
    served = Served(repository)
    try:
        closed = run_frames(served.url, frames, seconds=saturate, concurrency=8)
        rate = _LOAD * closed.answered / saturate
        publisher = _Publisher(models, repository, served, every)
        publisher.start()
        try:
            load = run_frames(served.url, frames, seconds=seconds, rate=rate, check=right)
        finally:
            publisher.stop.set()
            publisher.join()
        ready = wait_until(lambda: is_ready(served.http_url), _SETTLE_SECONDS) is not None
    finally:
        served.stop()
    return SoakResult(
        seconds=seconds,
        rate=round(rate, 1),
        requests=load.answered + load.failed,
        failed=load.failed,
        wrong=load.wrong,
        publishes=len(publisher.codes),
        publishes_failed=sum(code != 0 for code in publisher.codes),
        rollbacks=sum(code == 0 for code in publisher.rollbacks),
        poisons=publisher.poisons,
        p50_ms=load.percentile(50),
        p95_ms=load.percentile(95),
        p99_ms=load.percentile(99),
        memory=publisher.memory,
        slope=_slope(publisher.memory),
        ready_at_end=ready,
        errors=load.errors,
    )


def _slope(memory: Sequence[tuple[float, float]]) -> float | None:
    """Change per minute as a share of the mean, from minute 2 on; None with fewer than three looks."""
    late = np.array([look for look in memory if look[0] >= 120.0])
    if len(late) < 3:
        return None
    return float(np.polyfit(late[:, 0] / 60, late[:, 1], 1)[0] / late[:, 1].mean())
