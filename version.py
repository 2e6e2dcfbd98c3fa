"""The version of rtool, beside nothing else, so that any room can read it without importing the package's tables."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
