"""The commands of `rtool bench` as Python calls, such as `rtool.bench.parity` and `rtool.bench.latency`."""

from __future__ import annotations

from .benchmarks.cell_operations import operations
from .benchmarks.compare import parity
from .benchmarks.load import serving
from .benchmarks.search_comparison import search
from .benchmarks.timing import latency

__all__ = ["latency", "operations", "parity", "search", "serving"]
