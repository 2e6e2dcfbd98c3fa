"""Time and peak memory of a function, here or in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["in_own_process", "measured"]


def measured(function: Callable[[], dict[str, Any]], rounds: int) -> dict[str, Any]:
    """The least wall time of `rounds` calls, the processor time of that call, and what it returned."""
    best: dict[str, Any] = {}
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        values = function()
        row = {"wall_seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
        if not best or row["wall_seconds"] < best["wall_seconds"]:
            best = {name: round(value, 3) for name, value in row.items()} | values
    return best


def in_own_process(function: Callable[[], Any]) -> dict[str, Any]:
    """Call a function of a module in a new process: times, peak memory in MB, and what it returned.

    An array comes back as the path of a .npy file under "array".
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        row: dict[str, Any] = pool.submit(_call, function).result()
    return row


def _call(function: Callable[[], Any]) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    value = function()
    row: dict[str, Any] = {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if not isinstance(value, np.ndarray):
        return {**row, **value}
    path = Path(tempfile.mkdtemp(prefix="rtool-bench-")) / "array.npy"
    np.save(path, value)
    return row | {"array": str(path)}
