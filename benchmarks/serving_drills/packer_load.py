"""The packer with frames of 1 to 5 crops: how full its batches are, against padding in the client, and its latency."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...serving.server.server import TritonServer
from .frames import Frames, run_frames

__all__ = ["PackerLoad", "packer_load"]

_CONCURRENCY = 32
_LOAD = 0.8


@dataclass(frozen=True)
class PackerLoad:
    """`batch_ms` is a batch of 16 of the target alone; p95 and p99 are of the open loop, from the due time."""

    fill: float
    crops_per_second: float
    padding_crops_per_second: float
    times_padding: float
    batch_ms: float
    open_rate: float
    p95_ms: float
    p99_ms: float
    p95_in_batches: float
    stable: bool
    failed: int


def packer_load(
    server: TritonServer, images: NDArray[Any], *, packer: str, target: str, seconds: float, seed: int
) -> PackerLoad:
    """Closed loop for the fill and the saturation, then open loop at 0.8 of it.

    The saturation is the mean of two measurements, before padding was measured and after it: machines differ by a fifth
    from one minute to the next, and a load that is meant to be 0.8 is near 1 then. Stable: the second half of the open
    loop waited at most 1.5 times as long as the first, in the median.
    """
    sizes = np.random.default_rng(seed).integers(1, 6, 4000).tolist()
    frames = Frames([packer], images, sizes)
    before = _rows(server)
    closed = run_frames(server.url, frames, seconds=seconds, concurrency=_CONCURRENCY)
    after = _rows(server)
    real, padded = (after[kind] - before[kind] for kind in ("real", "padded"))
    full = run_frames(server.url, Frames([target], images, [16]), seconds=seconds / 2, concurrency=1)
    padding = run_frames(server.url, Frames([target], images, sizes, pad=16), seconds=seconds, concurrency=4)
    again = run_frames(server.url, frames, seconds=seconds, concurrency=_CONCURRENCY)
    saturation = (closed.crops_per_second + again.crops_per_second) / 2
    rate = _LOAD * saturation / float(np.mean(sizes))
    opened = run_frames(server.url, frames, seconds=3 * seconds, rate=rate, seed=seed)
    halves = np.array_split(np.array(opened.latencies), 2)
    batch_ms = full.percentile(50)
    return PackerLoad(
        fill=real / (real + padded),
        crops_per_second=saturation,
        padding_crops_per_second=padding.crops_per_second,
        times_padding=saturation / padding.crops_per_second,
        batch_ms=batch_ms,
        open_rate=rate,
        p95_ms=opened.percentile(95),
        p99_ms=opened.percentile(99),
        p95_in_batches=opened.percentile(95) / batch_ms,
        stable=bool(np.median(halves[1]) <= 1.5 * np.median(halves[0])),
        failed=sum(load.failed for load in (closed, again, padding, opened)),
    )


def _rows(server: TritonServer) -> Mapping[str, float]:
    """The packer's counters: rows of requests and rows of padding, so far."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    totals = {"real": 0.0, "padded": 0.0}
    for labels, value in re.findall(r"^rtool_packer_rows\{([^}]*)\} (\S+)$", text, re.MULTILINE):
        for kind in totals:
            totals[kind] += float(value) if f'kind="{kind}"' in labels else 0.0
    return totals
