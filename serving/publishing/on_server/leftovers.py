"""Removes what a publisher that was killed left: staged files, and a candidate that a server still holds in memory.

The next publish removes the files by itself; `rtool serve` looks every few seconds, so that nothing waits for it. A
publisher at work holds the repository's lock, and then nothing is touched.
"""

from __future__ import annotations

from pathlib import Path

from ....errors import PlatformError
from ....finetune.processes.locking import exclusive
from ...repository.repository import LOCK_FILE, ModelFolder
from ..publication import leftovers, make_private, remove_leftovers, staging_folder
from .clearing import clear_refusal
from .rollout import loaded_candidates, refused_on_server, unload_from_server

__all__ = ["sweep"]

_UNLOAD_SECONDS = 30.0


def sweep(repository: Path, url: str | None = None) -> tuple[str, ...]:
    """Remove the remains in `repository`, and unload candidates from the server at `url`; returns what was removed.

    Does nothing while a publisher holds the lock.
    """
    if not leftovers(repository) and not (url and loaded_candidates(url)):
        return ()
    try:
        with exclusive(repository / LOCK_FILE, timeout=0.0, purpose="publishing"):
            return _sweep(repository, url)
    except PlatformError:
        return ()


def _sweep(repository: Path, url: str | None) -> tuple[str, ...]:
    found = leftovers(repository)
    removed = [path.name for path in found]
    if url is not None:
        folders = {path.name: ModelFolder(path) for path in found if path.parent == repository}
        for name in sorted({*folders, *loaded_candidates(url)}):
            unload_from_server(url, name, timeout=_UNLOAD_SECONDS)
            for version in folders[name].versions() if name in folders else ():
                if refused_on_server(url, name, version):
                    _clear(url, folders[name], version, repository)
            if name not in removed:
                removed.append(name)
    remove_leftovers(repository)
    stayed = {path.name for path in leftovers(repository)}  # of another user, beside the repository
    return tuple(name for name in removed if name not in stayed)


def _clear(url: str, folder: ModelFolder, version: int, repository: Path) -> None:
    staging = staging_folder(repository)
    make_private(staging)
    scratch = staging / "clearing"
    scratch.mkdir(exist_ok=True)
    clear_refusal(url, folder, version, scratch)
