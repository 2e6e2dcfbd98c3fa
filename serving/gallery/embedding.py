"""Embeddings of the chosen crops, mirror images added, through the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...errors import GateError, InputError
from ...finetune.data.decoding import stream_pixels
from ...finetune.embedding.embed_images import EmbedImages
from ...finetune.embedding.image_digests import DigestedImages
from .inputs.crops import Crops
from .models import OpenedModel

__all__ = ["embed_crops"]


def embed_crops(model: OpenedModel, crops: Crops, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """Embeddings float32 [n, D] of the crops at `rows`, and how many of them the model computed; the rest were known.

    Raises:
        InputError: embeddings hold NaN or infinity, or the cache cannot be written.
    """
    embedder = model.embedder
    dataset = crops.dataset(rows)
    digested = DigestedImages(dataset.images) if model.cache is not None else None
    streamed = dataset if digested is None else replace(dataset, images=digested)
    batch = max(embedder.batch, 16)
    parts = []
    try:
        with EmbedImages(embedder.embed, flip=True, batch=embedder.batch, cache=model.cache) as embed:
            for positions, pixels in stream_pixels(streamed, embedder.preprocessing.resize, batch):
                parts.append(embed(pixels, None if digested is None else digested.digests[positions]))
            computed = embed.computed
    except GateError as error:
        raise InputError(f"{embedder.name}: {error}; a gallery needs a model with finite embeddings") from error
    embeddings = np.concatenate(parts)
    if len(embeddings) < len(rows):
        raise InputError(f"{crops.name}: files changed while they were read; run the command again")
    return embeddings, computed
