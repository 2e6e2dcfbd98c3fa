"""The file operations of publishing, in the order that keeps a repository loadable after a crash at any of them.

1. copy the configurations that serve now to `history/`;
2. stage the version folder in `.REPOSITORY.rtool-staging/`, beside the repository and on the same file system, and
   flush it to the disk;
3. write the warm-up files: their names have a digest, so none is overwritten;
4. rename the version folder into place;
5. replace `configs/*.pbtxt`, then `config.pbtxt`, each by one rename.

A new model is staged as a whole and appears by one rename. A server that reads the repository at any moment sees the
old model or the new one, because POSIX rename(2) is atomic.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...finetune.processes.locking import exclusive
from ..repository.manifest import manifest_text
from ..repository.repository import CANDIDATE_PREFIX, CONFIG_FILE, LOCK_FILE, MANIFEST_FILE, ModelFolder
from ..repository.warmup import WarmupFile

__all__ = [
    "STAND_IN",
    "Publication",
    "current_texts",
    "leftovers",
    "make_private",
    "prune",
    "publish",
    "publishing",
    "remember_configs",
    "remove_leftovers",
    "remove_whole",
    "replace_configs",
    "staging_folder",
    "write_atomically",
]

STAND_IN = "stands-in"
"""A file in the version folder of a model that only makes a server forget a refusal."""

_LOCK_SECONDS = 300.0


@dataclass(frozen=True)
class Publication:
    """One version to publish.

    `files` maps names in the version folder to the files that are copied there, `digests` some of these names to their
    SHA-256, `configs` paths below the model folder to their texts, `config.pbtxt` among them.
    """

    folder: ModelFolder
    version: int
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    configs: Mapping[str, str]
    warmup: Sequence[WarmupFile]
    manifest: Mapping[str, Any]


@contextmanager
def publishing(repository: Path) -> Iterator[Path]:
    """Lock the repository for one publisher; yields an empty staging folder that is removed afterwards.

    Raises:
        InputError: the repository cannot be created or written.
        PlatformError: another publisher held the lock for 300 s.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{repository}: cannot be created ({error.strerror}); choose another --repository") from error
    staging = staging_folder(repository)
    with exclusive(repository / LOCK_FILE, timeout=_LOCK_SECONDS, purpose="publishing"):
        remove_leftovers(repository)
        folder = staging / uuid.uuid4().hex
        try:
            make_private(staging)
            folder.mkdir(mode=0o700)
            yield folder
        except OSError as error:
            raise InputError(_why_not_written(error, repository)) from error
        finally:
            _remove(staging)


def make_private(staging: Path) -> None:
    """Make the staging folder for this user alone.

    Where the repository lies in a folder that everybody may write, another user may have made it first, to exchange
    what is published.

    Raises:
        InputError: somebody else made it, or may write it.
    """
    try:
        staging.mkdir(mode=0o700)
    except FileExistsError:
        found = staging.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise InputError(
                f"{staging}: versions are staged here, but others made it or may write it; remove it, or publish into "
                "a folder that lies in one of your own"
            ) from None


def _remove(folder: Path) -> None:
    with suppress(RecursionError):  # of a tree that another user made deep
        shutil.rmtree(folder, ignore_errors=True)


def _why_not_written(error: OSError, repository: Path) -> str:
    """The cause of a write that failed: the disk where it is full, else the file that was to be written.

    Python names both files of a failed copy, the one that is read first.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(repository).free
        disk = next(path for path in (repository.resolve(), *repository.resolve().parents) if path.is_mount())
        return (
            f"{repository}: the disk of {disk} is full ({error.strerror}, {free / 2**20:.1f} MiB free); free some space"
        )
    place = error.filename2 or error.filename or repository
    return f"{place}: cannot be written ({error.strerror}); check permissions"


def leftovers(repository: Path) -> tuple[Path, ...]:
    """What a publisher keeps only while it works: staged files, candidates, stand-ins (`clearing.py`)."""
    staging = []
    with suppress(InputError):  # nothing is published into the root of a file system
        staging.append(staging_folder(repository))
    stand_ins = (path.parent.parent for path in repository.glob(f"*/*/{STAND_IN}"))
    return tuple(path for path in (*staging, *repository.glob(f"{CANDIDATE_PREFIX}*"), *stand_ins) if path.exists())


def remove_leftovers(repository: Path) -> None:
    """Remove what a publisher that was killed left; call it only with the lock held."""
    for left in leftovers(repository):
        _remove(left)


def staging_folder(repository: Path) -> Path:
    """A hidden folder beside the repository; inside the repository, Triton would load it as a model.

    Raises:
        InputError: the repository is the root of its file system, so that nothing beside it can be renamed into it.
    """
    real = repository.resolve()
    if not real.name or real.stat().st_dev != real.parent.stat().st_dev:
        raise InputError(
            f"{repository}: is the root of a file system (a mounted volume?), and a version is staged beside it to "
            f"appear by one rename; publish into a folder below it, e.g. --repository {repository / 'models'}"
        )
    return real.with_name(f".{real.name}.rtool-staging")


def publish(publication: Publication, staging: Path) -> None:
    """Publish in the order of the module's docstring, from step 2 on; call it inside `publishing`.

    Raises:
        InputError: the model file changed while it was copied.
    """
    folder = publication.folder
    staged = ModelFolder(staging / folder.name)
    _stage_version(publication, staged)
    if not folder.path.exists():
        _write_warmup(staged, publication.warmup, staging)
        replace_configs(staged, publication.configs, staging)
        _sync_tree(staged.path)
        _rename(staged.path, folder.path)
        return
    _write_warmup(folder, publication.warmup, staging)
    _sync_tree(staged.path)
    target = folder.version_path(publication.version)
    if target.is_dir():  # a placeholder: it has no weights, so it cannot be in use
        _rename(target, staging / "placeholder")
    _rename(staged.version_path(publication.version), target)
    replace_configs(folder, publication.configs, staging)


def remove_whole(path: Path, staging: Path) -> None:
    """Remove a folder of the repository by one rename; a server never sees a part of it."""
    _rename(path, staging / uuid.uuid4().hex)


def prune(folder: ModelFolder, needed: Collection[int | None], keep: int, staging: Path) -> tuple[int, ...]:
    """Remove versions neither `needed` nor among the newest `keep`, and warm-up files that no configuration names.

    Returns the versions removed. Each is removed by one rename, so that a server never sees a part of one.
    """
    versions = folder.versions()
    removed = tuple(version for version in versions[:-keep] if version not in needed)
    for version in removed:
        _rename(folder.version_path(version), staging / f"removed-{version}")
        shutil.rmtree(folder.history_path(version), ignore_errors=True)
    texts = "".join(path.read_text() for path in folder.path.rglob("*.pbtxt"))
    for path in (folder.path / "warmup").glob("*"):
        if f'"{path.name}"' not in texts:
            path.unlink()
    return removed


def _stage_version(publication: Publication, staged: ModelFolder) -> None:
    target = staged.version_path(publication.version)
    target.mkdir(parents=True)
    for name, source in publication.files.items():
        shutil.copyfile(source, target / name)
    for name, digest in publication.digests.items():
        with (target / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise InputError(f"{publication.files[name]}: changed while it was being published; try again later")
    (target / MANIFEST_FILE).write_text(manifest_text(publication.manifest))


def _write_warmup(folder: ModelFolder, files: Sequence[WarmupFile], staging: Path) -> None:
    for file in files:
        path = folder.path / "warmup" / file.file_name
        if not path.is_file() or path.stat().st_size != len(file.data):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, file.data, staging)


def current_texts(folder: ModelFolder) -> dict[str, str]:
    """The present configurations of a model: path below its folder -> text."""
    paths = [folder.config_path, *sorted((folder.path / "configs").glob("*.pbtxt"))]
    return {str(path.relative_to(folder.path)): path.read_text() for path in paths if path.is_file()}


def remember_configs(folder: ModelFolder, version: int, staging: Path) -> None:
    """Copy the present configurations to the history of `version`, for a later rollback."""
    texts = current_texts(folder)
    if not texts:
        return
    staged = staging / "history"
    for name, text in texts.items():
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _sync_tree(staged)
    target = folder.history_path(version)
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        _rename(target, staging / "outdated")
    _rename(staged, target)


def replace_configs(folder: ModelFolder, configs: Mapping[str, str], staging: Path) -> None:
    """Replace each configuration by one rename, `config.pbtxt` last."""
    for name in sorted(configs, key=lambda name: name == CONFIG_FILE):
        path = folder.path / name
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, configs[name].encode(), staging)
    _make_newest(folder.config_path)


def _make_newest(path: Path) -> None:
    """Date a file after everything else in its folder: Triton ignores a load request when nothing is newer than before.

    Files copied from another machine can have dates in the future (Triton server issue 7013).
    """
    newest = max((entry.stat().st_mtime_ns for entry in path.parent.rglob("*") if entry != path), default=0)
    own = path.stat()
    if own.st_mtime_ns <= newest:
        os.utime(path, ns=(own.st_atime_ns, newest + 1_000_000))


def write_atomically(path: Path, data: bytes, staging: Path) -> None:
    """Replace one file by a rename, flushed to the disk."""
    scratch = staging / uuid.uuid4().hex
    with scratch.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    _sync_folder(path.parent)


def _rename(source: Path, target: Path) -> None:
    os.rename(source, target)
    _sync_folder(target.parent)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse to sync a folder; the rename stays atomic
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
