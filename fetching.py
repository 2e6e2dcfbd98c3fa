"""`rtool fetch`: a file from the network, whole and as its SHA-256 says, or not at all.

No other command goes to the network for a model; what comes from there is never opened before its hash is right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import InputError

__all__ = ["Fetched", "fetch"]

_BLOCK = 1 << 20
_TIMEOUT_S = 30
_LARGEST_GB = 8.0
Progress = Callable[[int, int | None], object]
"""Called with the bytes that came, and how many there will be where the server says so."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Fetched:
    """A file that is there, with the content that was asked for."""

    path: Path
    sha256: str
    size: int
    """Bytes."""
    loaded: bool
    """False where the file was there already."""


def fetch(
    url: str,
    output: str | Path | None = None,
    *,
    sha256: str,
    largest_gb: float = _LARGEST_GB,
    report: Progress | None = None,
) -> Fetched:
    """Load a file, check its hash, and only then give it its name.

    Args:
        url: An address that begins with https://; http:// on this machine alone. Redirects are held to the same.
        output: The file to write; by default the last part of the address, in the current folder.
        sha256: Of the content, 64 hexadecimal digits.
        largest_gb: Gigabytes (10^9 bytes) after which it is given up.
        report: Called after each block.

    Raises:
        InputError: another kind of address or hash; the server is not reached or refuses; the content is cut short, too
            large or another one; another file is there already; the disk is full. Nothing is left behind.
    """
    wanted = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise InputError(f"--sha256 {sha256!r}: expected 64 hexadecimal digits, as `sha256sum` prints them")
    _check_address(url)
    path = Path(output) if output is not None else Path(_name_of(url))
    if path.exists():
        return _found(path, wanted)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    try:
        with _opened(url) as answer, _Temporary(path) as file:
            size = _copy(answer, file, url, wanted, largest_gb * 1e9, report)
            file.keep()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    return Fetched(path, wanted, size, loaded=True)


def _check_address(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise InputError(f"{url}: expected an address that begins with https://")


def _name_of(url: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise InputError(f"{url}: does not end with the name of a file; give one with -o")
    return name


def _found(path: Path, wanted: str) -> Fetched:
    if not path.is_file():
        raise InputError(f"{path}: is there already, and no file; give another name with -o")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wanted:
        raise InputError(f"{path}: is there already, with SHA-256 {digest}; give another name with -o, or remove it")
    return Fetched(path, wanted, path.stat().st_size, loaded=False)


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the kinds of addresses that are taken alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(url: str) -> Any:
    try:
        return urllib.request.build_opener(_SameKind).open(url, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(f"{url}: cannot be reached ({getattr(error, 'reason', error)})") from error


def _copy(
    answer: Any,
    file: _Temporary,
    url: str,
    wanted: str,
    largest: float,
    report: Progress | None,
) -> int:
    """The number of bytes, whose hash is the one wanted."""
    stated = answer.headers.get("Content-Length")
    total = int(stated) if stated is not None and stated.isdigit() else None
    digest, size = hashlib.sha256(), 0
    while block := _block(answer, url):
        size += len(block)
        if size > largest or (total is not None and total > largest):
            raise InputError(f"{url}: larger than {largest / 1e9:g} GB; allow more with --largest-gb")
        digest.update(block)
        file.write(block)
        if report is not None:
            report(size, total)
    if total is not None and size != total:
        raise InputError(f"{url}: ended after {size:,} of {total:,} bytes; try again")
    if digest.hexdigest() != wanted:
        raise InputError(f"{url}: its SHA-256 is {digest.hexdigest()}, not {wanted}; nothing was kept")
    return size


def _block(answer: Any, url: str) -> bytes:
    try:
        block: bytes = answer.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: the connection broke ({error}); try again") from error
    return block


class _Temporary:
    """A file beside the one to be written, which takes its place or is removed."""

    def __init__(self, path: Path) -> None:
        self._path, self._kept = path, False

    def __enter__(self) -> _Temporary:
        number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        self._name, self._file = Path(name), os.fdopen(number, "wb")
        return self

    def write(self, block: bytes) -> None:
        self._file.write(block)

    def keep(self) -> None:
        """Give it its name, unless another file has it meanwhile."""
        self._file.close()
        os.chmod(self._name, 0o644)
        try:
            os.link(self._name, self._path)
        except FileExistsError:
            raise InputError(f"{self._path}: was made by somebody else meanwhile; nothing was kept") from None

    def __exit__(self, *_: object) -> None:
        file: IO[bytes] = self._file
        file.close()
        self._name.unlink(missing_ok=True)
