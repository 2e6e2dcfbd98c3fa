"""Embeddings of the chosen crops, mirror images added, through the cache; decoding and inference overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...converters.runtime.nonsense import IMAGES
from ...errors import DataError, GateError, InputError
from ...finetune.embedding.image_embeddings import embed
from ...finetune.embedding.image_sources import NamedImages
from .inputs.crops import Crops
from .models import OpenedModel

__all__ = ["embed_crops"]


def embed_crops(
    model: OpenedModel,
    crops: Crops,
    rows: NDArray[np.int64],
    progress: Callable[[int, int], object] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Embeddings float32 [n, D] of the crops at `rows`, and how many of them the model computed; the rest were known.

    Raises:
        InputError: embeddings hold NaN or infinity, the model gives one to all images, or the cache cannot be written.
        DataError: an image can no longer be read.
    """
    dataset = crops.dataset(rows)
    images = NamedImages(crops.name, dataset.images, dataset.names)
    try:
        result = embed(model.embedder, images, flip=True, cache=model.cache_folder, progress=progress)
    except GateError as error:  # the user chose the model: nothing of this command missed a target
        raise InputError(f"{error}; a gallery needs finite embeddings") from error
    if result.unreadable:
        raise DataError(f"{crops.name}: {result.unreadable[0]} can no longer be read; run the command again")
    _check_distinct(model, result.embeddings)
    return result.embeddings, result.computed


def _check_distinct(model: OpenedModel, embeddings: NDArray[np.float32]) -> None:
    """Refuse a model that cannot tell images apart, as one whose weights were lost; crops may be the same image."""
    if (embeddings != embeddings[0]).any():
        return
    stated = model.embedder.preprocessing
    shape = (IMAGES, stated.height, stated.width, stated.channels)
    answers = model.embedder.embed(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    if len(np.unique(answers, axis=0)) == 1:
        raise InputError(
            f"{model.embedder.name}: gives one embedding to every crop, and to {IMAGES} random images; its weights may "
            "be lost: take another file, or look at it with `rtool inspect`"
        )
