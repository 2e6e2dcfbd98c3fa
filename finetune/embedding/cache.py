"""Embeddings kept on disk, so that an image is embedded once by each model: `--cache DIR`.

    DIR/embeddings-<key>.npz    digest     uint8   [N, 32]  SHA-256 of each image as it is stored, ascending
                                embedding  float32 [N, D]   row n is that of digest n

The key is `cache_key`: the model, its preprocessing, whether mirror images are added, the number of the output, and the
version of how rtool reads and prepares images. An image is known by its content: names, paths and times of files do not
count. The file is read without pickle. It grows under a lock, by a new file that replaces it in one step, so that
several processes may share DIR and a kill leaves the old file or the new one. A damaged one is rebuilt, with a note.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...converters.files.array_files import read_arrays
from ...converters.files.atomic_file import write_atomically
from ...converters.records.preprocessing import Preprocessing
from ...errors import InputError, PlatformError
from ...version import __version__
from ..processes.locking import exclusive

__all__ = ["EmbeddingCache", "cache_key"]

Floats = NDArray[np.float32]
Digests = NDArray[np.uint8]

PIPELINE = 1
"""Raised when decoding, resizing, normalising or mirroring gives other numbers than before."""

_DIGEST_BYTES = 32
_LOCK_SECONDS = 120.0


def cache_key(model_digest: str, preprocessing: Preprocessing, *, flip: bool, output: int = 0) -> str:
    """What embeddings depend on beside the image, as 64 hexadecimal digits.

    Args:
        model_digest: `Embedder.digest()`, or another text that is the same for the same weights and graph only.
        preprocessing: How images are prepared.
        flip: Whether the embedding of the mirror image is added.
        output: Number of the model's output, from 0.
    """
    parts = [PIPELINE, __version__, model_digest, preprocessing.to_dict(), bool(flip), int(output)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class EmbeddingCache:
    """The embeddings of one key in one folder, which is made if it is absent. Safe to use from several threads.

    Args:
        folder: DIR.
        key: `cache_key`.
        report: Called with a line about a damaged file.

    Raises:
        InputError: the folder cannot be made or written into.

    Examples:
        >>> cache = rtool.finetune.EmbeddingCache("kept", "0" * 64)
        >>> cache.add(np.full((1, 32), 7, np.uint8), np.ones((1, 4), np.float32))
        >>> found, embeddings = cache.lookup(np.full((2, 32), [[7], [8]], np.uint8))
        >>> found.tolist(), embeddings.tolist()
        ([True, False], [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    """

    def __init__(self, folder: str | Path, key: str, *, report: Callable[[str], object] | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self.path = self.folder / f"embeddings-{key}.npz"
        self._lock = self.folder / f"embeddings-{key}.lock"
        self._report = report
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be made for the embedding cache ({error.strerror}); choose another --cache"
            ) from error
        try:
            with exclusive(self._lock, timeout=_LOCK_SECONDS, purpose="writing embeddings"):
                self._known = self._read()
        except PlatformError as error:
            raise InputError(f"{error}; or choose another --cache") from error

    def __len__(self) -> int:
        return len(self._known[0])

    def lookup(self, digests: Digests) -> tuple[NDArray[np.bool_], Floats]:
        """Which digests uint8 [N, 32] are known, bool [N], and their embeddings float32 [N, D]; rows of others are 0.

        D is 0 while the cache is empty.
        """
        known, embeddings = self._known  # once: another thread may add meanwhile
        asked = _sortable(digests)
        rows = np.zeros((len(asked), embeddings.shape[1]), dtype=np.float32)
        if not len(known):
            return np.zeros(len(asked), dtype=np.bool_), rows
        places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        found: NDArray[np.bool_] = known[places] == asked
        rows[found] = embeddings[places[found]]
        return found, rows

    def add(self, digests: Digests, embeddings: Floats) -> None:
        """Keep embeddings float32 [N, D] of digests uint8 [N, 32], together with what other processes added meanwhile.

        The whole file is written each time, so callers add many at once. What is known already stays as it is.

        Raises:
            InputError: numbers of rows differ, an embedding holds NaN or infinity, D is another than before, or the
                file cannot be written.
            PlatformError: another process held the lock for two minutes.
        """
        new, rows = _sortable(digests), np.asarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(new):
            raise InputError(f"{self.path.name}: {len(new)} digests for embeddings of shape {list(rows.shape)}")
        if not np.isfinite(rows).all():
            raise InputError(f"{self.path.name}: embeddings with NaN or infinity are not kept")
        with exclusive(self._lock, timeout=_LOCK_SECONDS, purpose="writing embeddings"):
            known, kept = self._read()
            if len(known) and len(new) and rows.shape[1] != kept.shape[1]:
                raise InputError(
                    f"{self.path}: holds embeddings of {kept.shape[1]} numbers, got {rows.shape[1]}; delete the file"
                )
            merged, first = np.unique(np.concatenate([known, new]), return_index=True)
            values = np.concatenate([kept, rows])[first] if len(known) else rows[first]
            if len(merged) > len(known):
                write_atomically(self.path, _packed(merged, values))
            self._known = merged, values

    def _read(self) -> tuple[NDArray[np.bytes_], Floats]:
        """Digests and embeddings of the file; none of an absent or damaged one."""
        empty = np.zeros(0, dtype=f"S{_DIGEST_BYTES}"), np.zeros((0, 0), dtype=np.float32)
        if not self.path.exists():
            return empty
        try:
            arrays = read_arrays(self.path, most_bytes=self.path.stat().st_size)
            found = arrays if isinstance(arrays, dict) else {}
            digest, embedding = found.get("digest"), found.get("embedding")
            if digest is None or embedding is None or embedding.dtype != np.float32 or embedding.ndim != 2:
                raise InputError(f"{self.path}: expected `digest` and `embedding`, got {', '.join(sorted(found))}")
            digests = _sortable(digest)
            if len(digests) != len(embedding) or (digests[1:] <= digests[:-1]).any():
                raise InputError(f"{self.path}: its rows are out of order")
            if not np.isfinite(embedding).all():
                raise InputError(f"{self.path}: it holds NaN or infinity")
        except (InputError, OSError) as error:
            if self._report is not None:
                self._report(f"the embedding cache is damaged and is rebuilt: {error}")
            return empty
        return digests, embedding


def _sortable(digests: Digests) -> NDArray[np.bytes_]:
    """Digests uint8 [N, 32] as N byte strings, which NumPy orders as memcmp does."""
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != _DIGEST_BYTES:
        raise InputError(f"expected digests uint8 [N, {_DIGEST_BYTES}], got {digests.dtype} {list(digests.shape)}")
    return np.ascontiguousarray(digests).view(f"S{_DIGEST_BYTES}").reshape(-1)


def _packed(digests: NDArray[np.bytes_], embeddings: Floats) -> bytes:
    """The file, uncompressed, and the same bytes for the same content."""
    buffer = io.BytesIO()
    digest = digests.view(np.uint8).reshape(-1, _DIGEST_BYTES)
    np.savez(buffer, digest=digest, embedding=np.ascontiguousarray(embeddings))
    return buffer.getvalue()
