"""The version of rtool; a module of its own, so that any room can import it without the package's tables."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
