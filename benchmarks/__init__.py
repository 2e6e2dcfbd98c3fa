"""Room: measurements. Parity, latency and load, the demo, and what this machine supports; studies in folders."""

from __future__ import annotations

from ..lazy import lazy_exports

_PUBLIC = {
    "demo": ".whole_flow.flow",
    "describe_machine": ".machine",
    "doctor": ".machine",
    "latency": ".timing",
    "operations": ".cell_operations",
    "parity": ".compare",
    "rounding_errors": ".operators.rounding",
    "serving": ".load",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
