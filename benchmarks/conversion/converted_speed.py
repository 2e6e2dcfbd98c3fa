"""Speed of the converted module compared with the hand-written network with folded BatchNorms: part `speed`.

Both run in one process, on one thread, in alternating order, in several sets of new modules, because the placement of
a module's memory changes its speed by some per cent. Times are CPU time of the thread, without that of other programs.
A step is zero_grad, forward, a loss, backward and SGD with momentum, in training mode. The hand-written network is that
of the zoo: its ReLUs are in place in ResNet-50 only, and attention is two matrix products.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...converters.lowering.conversion import onnx_to_torch
from .folded_networks import exported, fold_by_hand, images_for, randomised

__all__ = ["NETWORKS", "measure_speed", "missed_speed", "ratio_of", "speed", "table_of_speed"]

NETWORKS = {
    "iresnet18": 4,
    "iresnet50": 2,
    "iresnet100": 2,
    "osnet_x0_25": 8,
    "osnet_x1_0": 4,
    "mobilefacenet": 8,
    "resnet50": 2,
    "vit_tiny": 4,
}
"""Network -> images per batch."""

_BOUND = 1.02
_ERROR = 1e-5
_SECONDS = 24.0
"""Seconds, approximately, for forward and for step of each network; at least `_FEWEST` rounds."""
_SETS, _FEWEST, _MOST, _WARM_UP = 3, 4, 60, 2


def speed(networks: Iterable[str] = tuple(NETWORKS)) -> dict[str, Any]:
    """Every network's times and ratios."""
    return {network: measure_speed(network, NETWORKS[network]) for network in networks}


def measure_speed(network: str, batch: int) -> dict[str, Any]:
    """Ratios converted to hand-written (median, 95 % interval), with milliseconds and the difference of outputs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        images = images_for(network, batch)
        original = randomised(network)
        source = exported(original, images)
        by_hand = fold_by_hand(original)
        converted = onnx_to_torch(source)
        result: dict[str, Any] = {"batch": batch, "difference": _difference(by_hand, converted, images)}
        for kind, make in (("forward", _forward), ("step", _step)):
            pairs: list[NDArray[np.float64]] = []
            for turn in range(_SETS):
                modules = _fresh(by_hand, converted, first=turn % 2)
                pairs.append(_times([make(module, images) for module in modules], _SECONDS / _SETS))
            result[kind] = _summary(np.concatenate(pairs, axis=1))
        return result
    finally:
        torch.set_num_threads(threads)


def _difference(by_hand: nn.Module, converted: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        expected, got = by_hand.eval()(images), converted.eval()(images)
    return float((expected - got).abs().max() / expected.abs().max())


def _fresh(by_hand: nn.Module, converted: nn.Module, *, first: int) -> list[nn.Module]:
    """Copies of both modules, made in alternating order."""
    modules = [by_hand, converted]
    copies = {index: copy.deepcopy(modules[index]) for index in (first, 1 - first)}
    return [copies[0], copies[1]]


def _forward(module: nn.Module, images: Tensor) -> Callable[[], None]:
    module.eval()

    def call() -> None:
        with torch.no_grad():
            module(images)

    return call


def _step(module: nn.Module, images: Tensor) -> Callable[[], None]:
    module.train().requires_grad_(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6, momentum=0.9)

    def call() -> None:
        optimizer.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()

    return call


def _times(calls: Sequence[Callable[[], None]], seconds: float) -> NDArray[np.float64]:
    """Milliseconds [2, rounds] of thread CPU time, called A B, B A, A B ... with the garbage collector off."""
    started = time.perf_counter()
    for call in (*calls, *calls):
        call()
    rounds = int(seconds / max((time.perf_counter() - started) / 2, 1e-6))
    rounds = min(max(rounds, _FEWEST), _MOST)
    times = np.empty((2, rounds))
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds + _WARM_UP):
            for index in (0, 1) if turn % 2 else (1, 0):
                start = time.thread_time_ns()
                calls[index]()
                if turn >= _WARM_UP:
                    times[index, turn - _WARM_UP] = (time.thread_time_ns() - start) / 1e6
    finally:
        gc.enable()
    return times


def _summary(times: NDArray[np.float64]) -> dict[str, Any]:
    by_hand, converted = times
    return {
        "ratio": [round(value, 4) for value in ratio_of(converted, by_hand)],
        "by_hand_ms": round(float(np.median(by_hand)), 3),
        "converted_ms": round(float(np.median(converted)), 3),
        "samples_ms": {"by_hand": by_hand.round(3).tolist(), "converted": converted.round(3).tolist()},
    }


def ratio_of(times: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median of the ratios per round, with its 95 % bootstrap interval."""
    ratios = times / reference
    picks = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def table_of_speed(result: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: one row per network."""
    lines = ["| network | batch | forward by hand, ms | ratio | step by hand, ms | ratio | relative error |"]
    lines.append("|---" * 7 + "|")
    for network, row in result.items():
        cells = [f"{row[kind]['by_hand_ms']:.1f} | {_interval(row[kind]['ratio'])}" for kind in ("forward", "step")]
        lines.append(f"| {network} | {row['batch']} | {' | '.join(cells)} | {row['difference']:.1e} |")
    return "\n".join(lines) + "\n"


def _interval(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]"


def missed_speed(result: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Networks whose whole interval is above the bound, or whose outputs differ."""
    missed = []
    for network, row in result.items():
        for kind in ("forward", "step"):
            if row[kind]["ratio"][1] > _BOUND:
                missed.append(f"{network}, {kind}: {_interval(row[kind]['ratio'])}, wanted <= {_BOUND:g}")
        if row["difference"] > _ERROR:
            missed.append(f"{network}: relative error {row['difference']:.1e}, wanted <= {_ERROR:g}")
    return missed
