"""The folder of TensorRT engines, before a server of this machine reads it.

An engine is code that the server runs, and the folder lies in /tmp, where every user of the machine may make it
first. In a container /tmp is the container's own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ...errors import PlatformError

__all__ = ["own_engine_folder"]


def own_engine_folder(folder: Path, configurations: Iterable[Path]) -> None:
    """Make `folder`, mode 0700, if one of the configurations names it; one that is there must be this user's alone.

    Raises:
        PlatformError: it is a link, no folder, another user's, or others may write into it.
    """
    if not any(str(folder) in path.read_text(encoding="utf-8") for path in configurations if path.is_file()):
        return
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise PlatformError(f"{folder}: cannot be made for TensorRT's engines ({error.strerror})") from error
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        fault = "is not a folder"
    elif found.st_uid != os.geteuid():
        fault = "belongs to another user"
    elif found.st_mode & 0o022:
        fault = "may be written by other users"
    else:
        return
    raise PlatformError(
        f"{folder}: {fault}, and TensorRT would run the engines in it; remove it, or serve another --config-name"
    )
