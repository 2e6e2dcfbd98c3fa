"""The commands of `rtool bench` as Python calls: `rtool.bench.parity`, `rtool.bench.latency`, `rtool.bench.serving`."""

from __future__ import annotations

from .benchmarks.compare import parity
from .benchmarks.load import serving
from .benchmarks.timing import latency

__all__ = ["latency", "parity", "serving"]
