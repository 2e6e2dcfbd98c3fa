"""A teacher whose embeddings are kept on disk, by the pixels that gave them: `distil.cache`.

It pays where views come again, that is where images are at most mirrored. What is missing is computed in chunks of one
size, padded by repeating, so that an embedding does not depend on which others were missing: a run that is resumed with
another state of the cache gives the same bits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.augmentation import AugmentConfig
from ..config.effects.conditions import random_changes
from ..embedding.cache import EmbeddingCache, cache_key
from .teacher_outputs import TeacherOutputs
from .teachers import RunnerTeacher, TorchTeacher

__all__ = ["KeptTeacher", "kept"]

_CHUNK = 16
_FEWEST = 256
"""New embeddings before the file is written again, which is written whole."""
_GROWTH = 0.25
"""Or this share of those in it."""


class KeptTeacher:
    """`teacher`, asked only for what `cache` does not have."""

    def __init__(self, teacher: TorchTeacher | RunnerTeacher, cache: EmbeddingCache) -> None:
        self.name, self.decision = teacher.name, teacher.decision
        self._teacher, self._cache = teacher, cache
        self._new: dict[bytes, NDArray[np.float32]] = {}

    def outputs(self, pixels: Tensor) -> TeacherOutputs:
        """See `Teacher`; pixels uint8 [N, H, W, C]."""
        rows = pixels.cpu().numpy()
        digests = np.stack([np.frombuffer(hashlib.sha256(row.tobytes()).digest(), np.uint8) for row in rows])
        found, embeddings = self._cache.lookup(digests)
        known = dict(zip(range(len(rows)), embeddings, strict=True))
        missing = [n for n in np.flatnonzero(~found).tolist() if digests[n].tobytes() not in self._new]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            said = self._teacher.outputs(pixels[np.resize(chunk, _CHUNK)]).embeddings.cpu().numpy()
            self._new |= {digests[n].tobytes(): row for n, row in zip(chunk, said, strict=False)}
        known |= {n: self._new[digests[n].tobytes()] for n in np.flatnonzero(~found).tolist()}
        if len(self._new) >= max(_FEWEST, _GROWTH * len(self._cache)):
            self.flush()
        whole = np.stack([known[n] for n in range(len(rows))])
        return TeacherOutputs(torch.from_numpy(whole).to(pixels.device))

    def flush(self) -> None:
        """Write what is new."""
        if self._new:
            digests = np.stack([np.frombuffer(key, np.uint8) for key in self._new])
            self._cache.add(digests, np.stack(list(self._new.values())))
            self._new = {}


def kept(
    teacher: TorchTeacher | RunnerTeacher, folder: Path | None, augment: AugmentConfig, wants_more: bool
) -> TorchTeacher | RunnerTeacher | KeptTeacher:
    """`teacher` with the cache in `folder`, where there is one and views come again.

    Args:
        teacher: An opened teacher.
        folder: `distil.cache`.
        augment: The random changes of training images.
        wants_more: Whether logits or feature maps are wanted of it, which are not kept.

    Raises:
        InputError: the folder cannot be written into, or nothing tells this model from another.
    """
    if folder is None or wants_more or random_changes(augment):
        return teacher
    key = cache_key(f"{teacher.digest()}, views", teacher.decision.preprocessing, flip=False, output=teacher.output)
    return KeptTeacher(teacher, EmbeddingCache(folder, key))
