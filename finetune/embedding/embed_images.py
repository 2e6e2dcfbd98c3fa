"""Pixels to embeddings in batches: mirror images are added, what a cache knows is not computed again."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .cache import EmbeddingCache
from .embedders import Embed
from .unit_embeddings import refuse_non_finite

__all__ = ["EmbedImages", "embed_images"]

Floats = NDArray[np.float32]
Digests = NDArray[np.uint8]

_SECONDS = 20.0
"""Time between writes of the cache, which is written as a whole each time."""


def embed_images(embed: Embed, pixels: NDArray[np.uint8], *, flip: bool, batch: int) -> Floats:
    """Embeddings [N, D] of uint8 [N, H, W, C]; with `flip`, the sum with those of the mirrored images.

    Raises:
        GateError: some are not finite.
    """
    rows = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        embeddings = embed(part)
        if flip:
            embeddings = embeddings + embed(np.ascontiguousarray(part[:, :, ::-1]))
        refuse_non_finite(embeddings)
        rows.append(embeddings)
    return np.concatenate(rows)


class EmbedImages:
    """`embed_images` with a cache; as a context manager it writes what is new every 20 s, and when the block ends.

    Also when it ends by an error or Ctrl-C, so that the next run starts where this one stopped. Safe to use from
    several threads.

    Args:
        embed: From pixels uint8 [N, H, W, C] to embeddings float32 [N, D].
        flip: Add the embedding of the mirror image.
        batch: Images per call of `embed`.
        cache: The embeddings of this `embed`, preprocessing and `flip`; None computes all.
    """

    def __init__(
        self,
        embed: Embed,
        *,
        flip: bool,
        batch: int,
        cache: EmbeddingCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embed, self._flip, self._batch, self.cache = embed, flip, batch, cache
        self._new: list[tuple[Digests, Floats]] = []
        self._clock, self._written = clock, clock()
        self._lock = Lock()
        self.computed = 0
        """Images that the model embedded; the others were known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.write()

    def __call__(self, pixels: NDArray[np.uint8], digests: Digests | None = None) -> Floats:
        """Embeddings float32 [N, D] of pixels uint8 [N, H, W, C] with these digests.

        Raises:
            GateError: some are not finite.
            InputError: the cache cannot be written.
        """
        if self.cache is None or digests is None:
            with self._lock:
                self.computed += len(pixels)
            return embed_images(self._embed, pixels, flip=self._flip, batch=self._batch)
        found, rows = self.cache.lookup(digests)
        if not found.all():
            new = embed_images(self._embed, pixels[~found], flip=self._flip, batch=self._batch)
            if not found.any():
                rows = np.empty((len(pixels), new.shape[1]), dtype=np.float32)
            rows[~found] = new
            with self._lock:
                self.computed += len(new)
                self._new.append((digests[~found], new))
                due = self._clock() - self._written >= _SECONDS
            if due:
                self.write()
        return rows

    def write(self) -> None:
        """Add to the cache what is new.

        Raises:
            InputError: the cache cannot be written.
        """
        with self._lock:
            new, self._new = self._new, []
            self._written = self._clock()
        if new and self.cache is not None:
            digests, rows = zip(*new, strict=True)
            self.cache.add(np.concatenate(digests), np.concatenate(rows))
