"""Room: serving."""

from __future__ import annotations

from ..lazy import lazy_exports

_PUBLIC: dict[str, str] = {}

__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
