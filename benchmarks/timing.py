"""`rtool bench latency MODEL...`: time models side by side in one process.

The models take turns in every round, so that a slower machine slows all of them. The ratio to the first model is
computed per round; its confidence interval is a bootstrap over the rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..converters.bundles.reference import open_runner
from ..converters.runtime.probes.given_probes import Probe
from ..converters.runtime.probes.open_sizes import describe_open_sizes
from ..errors import InputError
from .machine import describe_machine
from .references import common_batch, random_inputs

__all__ = ["LatencyReport", "LatencyRow", "latency", "time_in_turns"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class LatencyRow:
    """Milliseconds per call of one model, rows per second at the median, and the median ratio to the first model.

    `ratio_low` and `ratio_high` bound the 95 % bootstrap interval of the ratio.
    """

    model: str
    p50: float
    p95: float
    p99: float
    mean: float
    samples_per_second: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class LatencyReport:
    """All rows, the conditions of the measurement, and every sample in milliseconds, by model."""

    rows: tuple[LatencyRow, ...]
    batch: int
    rounds: int
    threads: int | None
    machine: dict[str, object]
    samples_ms: dict[str, list[float]]
    open_sizes: str = ""
    """At which sizes a model with open ones was timed, and why; "" where none is open."""


def latency(
    references: Sequence[str | Path],
    *,
    batch: int = 1,
    rounds: int = 50,
    warmup: int = 5,
    threads: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    probes: Mapping[str, Probe] | None = None,
) -> LatencyReport:
    """Time calls of each model reference on one batch of random inputs, transfers to and from a GPU included.

    `batch` is in rows per call; a fixed batch replaces it. Each model is called `warmup` times, then once per round.
    `threads` is per model; None leaves it to the runtime. Open sizes are those of `closed_sizes`; `probes` replace
    random inputs by name.

    Raises:
        InputError: no model, fewer than 3 rounds, different fixed batches, or no model that states its inputs.
        PlatformError: `device` is a GPU that cannot be used.

    Examples:
        >>> report = rtool.bench.latency(["model.onnx", "fixed.onnx"], batch=2, rounds=5)
        >>> [(row.model, row.p50 <= row.p99) for row in report.rows]
        [('model.onnx', True), ('fixed.onnx', True)]
    """
    if not references:
        raise InputError("bench latency: name at least one model")
    if rounds < 3:
        raise InputError(f"bench latency: an interval needs at least 3 rounds, got {rounds}")
    runners = [open_runner(reference, device=device, threads=threads) for reference in references]
    batch = common_batch(runners, batch)
    specs = next((runner.inputs for runner in runners if runner.inputs), ())
    if not specs:
        raise InputError(f"{references[0]}: does not state its inputs; time it beside a model that does")
    inputs = [random_inputs(runner.inputs or specs, batch, seed, probes=probes) for runner in runners]
    calls = [
        (lambda runner=runner, arrays=arrays: runner.run(*arrays))
        for runner, arrays in zip(runners, inputs, strict=True)
    ]
    samples = time_in_turns(calls, rounds=rounds, warmup=warmup)
    names = _distinct([str(reference) for reference in references])
    rows = tuple(_row(name, times, samples[0], batch) for name, times in zip(names, samples, strict=True))
    raw = {name: [round(float(value), 4) for value in times] for name, times in zip(names, samples, strict=True)}
    sizes = describe_open_sizes(specs, probes=probes)
    return LatencyReport(rows, batch, rounds, threads, describe_machine(), raw, sizes)


def time_in_turns(calls: Sequence[Callable[[], object]], *, rounds: int, warmup: int) -> list[NDArray[np.float64]]:
    """Milliseconds per call, one array [rounds] float64 per function, called in the order A B C A B C ...

    Each function is called `warmup` times before. The garbage collector is off during the measurement.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    times = np.empty((len(calls), rounds))
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for index in range(rounds):
            for row, call in enumerate(calls):
                start = time.perf_counter_ns()
                call()
                times[row, index] = (time.perf_counter_ns() - start) / 1e6
    finally:
        if enabled:
            gc.enable()
    return list(times)


def _row(name: str, times: NDArray[np.float64], first: NDArray[np.float64], batch: int) -> LatencyRow:
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    ratios = times / first
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return LatencyRow(
        model=name,
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
        mean=float(times.mean()),
        samples_per_second=float(1000 * batch / p50),
        ratio=float(np.median(ratios)),
        ratio_low=float(low),
        ratio_high=float(high),
    )


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names, 1)]
