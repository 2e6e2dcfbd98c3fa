"""A full disk as one message instead of a traceback.

safetensors reports the operating system's error as text only, so its number is parsed from that.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ...errors import PlatformError

__all__ = ["out_of_space_named"]

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would pass the size limit of this process (ulimit -f)",
}


@contextmanager
def out_of_space_named(folder: Path, doing: str = "writing") -> Iterator[None]:
    """Turn a write that failed for lack of space into a `PlatformError` that names `folder` and what was being done.

    Raises:
        PlatformError: in place of ENOSPC, EDQUOT and EFBIG; other errors are raised as they are.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = _REASONS.get(_number(error))
        if reason is None:
            raise
        raise PlatformError(
            f"{folder}: {reason} while {doing}; checkpoints written before are whole: free some space, or lower "
            "checkpoints.keep, and continue with --resume auto"
        ) from error


def _number(error: OSError | SafetensorError) -> int:
    """The operating system's number of an error, 0 if there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0
