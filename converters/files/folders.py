"""Writing a folder so that it is either there in full or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import InputError

__all__ = ["check_output", "replace_folder"]


@contextmanager
def replace_folder(path: Path, *, may_replace: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends without an error.

    Args:
        path: the folder to make; its parent must exist.
        may_replace: decides whether what is already at `path` may be replaced; None: never.

    Raises:
        InputError: `path` is taken, or its parent is missing.
    """
    check_output(path, may_replace=may_replace)
    taken = path.exists()
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        _grant_usual_permissions(temporary)
        if taken:
            discarded = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, discarded / path.name)
            os.replace(temporary, path)
            shutil.rmtree(discarded, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(path: Path, *, may_replace: Callable[[Path], bool] | None = None) -> None:
    """Refuse early what `replace_folder` would refuse after the work is done.

    Raises:
        InputError: `path` is taken, or its parent is missing.
    """
    taken = path.exists() or path.is_symlink()
    if taken and may_replace is None:
        raise InputError(f"{path}: already exists; choose another output or pass --overwrite to replace a bundle")
    if taken and may_replace is not None and not may_replace(path):
        raise InputError(f"{path}: exists and is not a bundle, so it is not replaced; choose another output")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")


def _grant_usual_permissions(folder: Path) -> None:
    """What the user's umask says, instead of the private modes of temporary files."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)
