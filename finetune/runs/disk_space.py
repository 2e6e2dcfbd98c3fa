"""A full disk as one message instead of a traceback.

safetensors reports the operating system's error as text only, so it is read from there.
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
    """Turn a failed write for want of space into a `PlatformError` that names `folder` and what was being done.

    Raises:
        PlatformError: in place of ENOSPC, EDQUOT and EFBIG; other errors pass.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = _REASONS.get(_number(error))
        if reason is None:
            raise
        raise PlatformError(
            f"{folder}: {reason} while {doing}; checkpoints written before are whole: free some space, or lower "
            "checkpoints.keep, and go on with --resume auto"
        ) from error


def _number(error: OSError | SafetensorError) -> int:
    """The operating system's number of an error, 0 when there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0
