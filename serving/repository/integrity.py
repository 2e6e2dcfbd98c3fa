"""Whether the files of a version are those that its manifest names by SHA-256.

Asked by `rtool serve --check`, before a server starts, and before a version is loaded on a running one; the embedded
server's back end asks again for the bytes that it opens. A version without a manifest, as others write them, is not
judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from .repository import ModelFolder

__all__ = ["changed_files", "check_unchanged"]


def changed_files(folder: ModelFolder, version: int, weights: str = "") -> Iterator[tuple[Path, str]]:
    """Files of a version that are not those of its manifest, each with the reason; missing ones are left to others.

    `weights` is the file that the configuration serves, by default the one that `deploy` publishes.

    Raises:
        InputError: the manifest is not JSON.
    """
    manifest = folder.manifest(version) or {}
    stated = manifest.get("sha256")
    digests = stated if isinstance(stated, dict) else {weights or folder.model_path(version).name: stated}
    for name, digest in digests.items():
        path = folder.version_path(version) / str(name)
        if digest is None or not path.is_file():
            continue
        found = _sha256(path)
        if found != digest:
            yield (
                path,
                f"is not the file that was published: sha256 {found[:16]}..., manifest.json says "
                f"{str(digest)[:16]}...; publish it again, or roll back with `rtool deploy --rollback`",
            )


def check_unchanged(folder: ModelFolder, version: int) -> None:
    """Refuse a version whose files are not those of its manifest.

    Raises:
        InputError: one was changed.
    """
    for path, reason in changed_files(folder, version):
        raise InputError(f"{path}: {reason}")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
