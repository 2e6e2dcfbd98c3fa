"""Calls models on a running Triton: `Client` and `AsyncClient`."""

from __future__ import annotations

from ...lazy import lazy_exports

_PUBLIC: dict[str, str] = {
    "AsyncClient": ".asynchronous",
    "Client": ".client",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
