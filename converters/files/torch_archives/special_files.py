"""Pipes, sockets and devices, which no reader opens.

It lies here because Triton's PyTorch back end takes along this room, and nothing else of the package.
"""

from __future__ import annotations

import stat
from pathlib import Path

from ....errors import InputError

__all__ = ["refuse_special"]


def refuse_special(path: Path) -> None:
    """Refuse what is neither a file nor a folder before it is opened: opening a pipe may wait for ever.

    Raises:
        InputError: a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # opening it says why
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe, a socket or a device; save what it gives to a file, and give that")
