"""Latency of the exported model compared with its source and with the simplified unfused export.

CPU time of single calls on one thread. The models take turns in rotating order, in several sets of sessions, which are
created in rotating order too: the placement of a session's memory changes its speed by some per cent for the session's
life. Therefore the interval of a ratio is a bootstrap over sets of sessions and over rounds within a set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ...converters.runtime.runners import OnnxRunner

__all__ = ["Latencies", "measure_latencies", "ratio_with_interval"]

_SETS = 8
_WARM_UP = 2
_SECONDS = 12.0
"""Seconds, approximately, for which a network is measured."""
_FEWEST, _MOST = 6, 100
"""Rounds per set of sessions."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Latencies:
    """Medians in milliseconds of CPU time; ratios of the model of the first key to that of the second."""

    milliseconds: dict[str, float]
    ratios: dict[str, dict[str, tuple[float, float, float]]]
    """(median, low, high), see `ratio_with_interval`."""
    nodes: dict[str, int]
    sets: int
    rounds: int


def measure_latencies(models: Mapping[str, Path], image: NDArray[np.float32], judged: Sequence[str]) -> Latencies:
    """Time `models` on `image` [1, ...]; gives the ratio of each model in `judged` to each other model."""
    loaded = {name: onnx.load(path) for name, path in models.items()}
    rounds = _rounds(loaded, image)
    samples = {name: np.empty((_SETS, rounds)) for name in loaded}
    names = list(loaded)
    for index in range(_SETS):
        order = names[index % len(names) :] + names[: index % len(names)]
        runners = {name: OnnxRunner(loaded[name], threads=1) for name in order}
        for turn in range(-_WARM_UP, rounds):
            for place in range(len(order)):
                name = order[(turn + place) % len(order)]
                elapsed = _call(runners[name], image)
                if turn >= 0:
                    samples[name][index, turn] = elapsed
    return Latencies(
        {name: round(float(np.median(times)), 3) for name, times in samples.items()},
        {
            name: {other: ratio_with_interval(samples[name], samples[other]) for other in names if other != name}
            for name in judged
        },
        {name: len(model.graph.node) for name, model in loaded.items()},
        _SETS,
        rounds,
    )


def ratio_with_interval(
    times: NDArray[np.float64], reference: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float, float]:
    """Median of `times / reference`, both [sets, rounds], with its 95 % interval.

    The bootstrap first resamples sets, then rounds within each, because the rounds of a set share their sessions.
    """
    ratios = times / reference
    sets, rounds = ratios.shape
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, sets, (_RESAMPLES, sets, 1))
    within = generator.integers(0, rounds, (_RESAMPLES, sets, rounds))
    medians = np.median(ratios[drawn, within], axis=(1, 2))
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def _rounds(models: Mapping[str, onnx.ModelProto], image: NDArray[np.float32]) -> int:
    """The number of sets that fit into the time per network."""
    once = 0.0
    for model in models.values():
        runner = OnnxRunner(model, threads=1)
        _call(runner, image)
        once += _call(runner, image) / 1e3
    return int(np.clip(_SECONDS / (_SETS * once) - _WARM_UP, _FEWEST, _MOST))


def _call(runner: OnnxRunner, image: NDArray[np.float32]) -> float:
    """Milliseconds of CPU time of one call."""
    start = time.thread_time_ns()
    runner.run(image)
    return (time.thread_time_ns() - start) / 1e6
