"""Write folders atomically, complete or not at all."""

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
    """A temporary folder beside `path`, which is renamed to `path` when the block ends without an error.

    Args:
        path: the folder to make; its parent must exist.
        may_replace: whether what is already at `path` may be replaced; None: never.

    Raises:
        InputError: `path` exists and may not be replaced, or its parent is missing.
    """
    check_output(path, may_replace=may_replace)
    exists = path.exists()
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        _grant_usual_permissions(temporary)
        if exists:
            discarded = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, discarded / path.name)
            os.replace(temporary, path)
            shutil.rmtree(discarded, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(path: Path, *, may_replace: Callable[[Path], bool] | None = None) -> None:
    """Refuse, before any work, what `replace_folder` would refuse.

    Raises:
        InputError: `path` exists and may not be replaced, or its parent is missing.
    """
    if not path.name:
        raise InputError(f"{path}: expected the name of a folder to make; choose another output")
    exists = path.exists() or path.is_symlink()
    if exists and may_replace is None:
        raise InputError(f"{path}: already exists; choose another output or pass --overwrite to replace a bundle")
    if exists and may_replace is not None and not may_replace(path):
        raise InputError(f"{path}: exists and is not a bundle, so it is not replaced; choose another output")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")


def _grant_usual_permissions(folder: Path) -> None:
    """Set the permissions of the user's umask, instead of the private ones of temporary files."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
