"""The folder in which rtool keeps what it can make or download again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """`$RTOOL_CACHE`, else `$XDG_CACHE_HOME/rtool`, else `~/.cache/rtool`."""
    if chosen := os.environ.get("RTOOL_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".cache") / "rtool"
