"""What a row costs through the server, beside the same session in this process: processor time and wall time.

The two take turns, because the machine may be shared. Both have one intra-op thread and 16 rows. The client sends a
long array, so that the instance is never without a request. This process is to be scheduled as `rtool embed` is for a
served model (`batch_scheduling.py`).
The processor time of the server is that of Triton and its stubs; the client's is stated beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...serving.client.client import Client
from ...serving.server.server import TritonServer
from .process_tree import cpu_seconds, family

__all__ = ["RowCost", "row_costs"]

_ROWS = 16
_COPIES = 16
"""Of the images, in one call of the client: the pause between two calls is not the server's."""


@dataclass(frozen=True)
class RowCost:
    """One way of asking. Medians of the rounds with [least, most]; ratios are of one round each.

    CPU in milliseconds per row; `cpu_ratio` is the server's over this process's, `wall_ratio` the rows per second of
    the server over those of this process.
    """

    what: str
    in_process_cpu: tuple[float, float, float]
    server_cpu: tuple[float, float, float]
    client_cpu: tuple[float, float, float]
    cpu_ratio: tuple[float, float, float]
    wall_ratio: tuple[float, float, float]
    rows_per_second: tuple[float, float, float]


def row_costs(
    server: TritonServer, cases: dict[str, tuple[str, Path, NDArray[Any], bool]], *, rounds: int, seconds: float
) -> list[RowCost]:
    """Measure every case: what -> (model on the server, its file, images, whether by shared memory)."""
    results = []
    for what, (model, file, images, shared) in cases.items():
        client = Client(server.url, model, shared_memory=shared)
        local, remote = _local(file, images), _remote(client, images)
        pairs = [(_timed(local, seconds, [], 0), _timed(remote, seconds, family(server.process.pid), 1))
                 for _ in range(rounds)]  # fmt: skip
        results.append(_summary(what, pairs))
        client.close()
    return results


_Round = tuple[float, float, float]
"""CPU of this process and of the server in ms per row, and rows per second."""


def _summary(what: str, pairs: list[tuple[_Round, _Round]]) -> RowCost:
    def spread(values: list[float]) -> tuple[float, float, float]:
        return (round(median(values), 4), round(min(values), 4), round(max(values), 4))

    return RowCost(
        what,
        spread([own[0] for own, _ in pairs]),
        spread([theirs[1] for _, theirs in pairs]),
        spread([theirs[0] for _, theirs in pairs]),
        spread([theirs[1] / own[0] for own, theirs in pairs]),
        spread([theirs[2] / own[2] for own, theirs in pairs]),
        spread([theirs[2] for _, theirs in pairs]),
    )


def _timed(once: Callable[[], int], seconds: float, pids: list[int], warm: int) -> _Round:
    """One measurement; `pids` are the server's processes."""
    for _ in range(1 + warm):
        once()
    server, own, began = cpu_seconds(pids), time.process_time(), time.perf_counter()
    rows = 0
    while time.perf_counter() - began < seconds:
        rows += once()
    wall = time.perf_counter() - began
    return ((time.process_time() - own) / rows * 1e3, (cpu_seconds(pids) - server) / rows * 1e3, rows / wall)


def _local(file: Path, images: NDArray[Any]) -> Callable[[], int]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def once() -> int:
        for at in range(0, len(images) - _ROWS + 1, _ROWS):
            session.run(None, {name: images[at : at + _ROWS]})
        return len(images) // _ROWS * _ROWS

    return once


def _remote(client: Client, images: NDArray[Any]) -> Callable[[], int]:
    rows = np.concatenate([images] * _COPIES)

    def once() -> int:
        client.run_rows(rows)
        return len(rows)

    return once
