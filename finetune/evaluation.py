"""Evaluate a model on a data set: embed every image (and its mirror image), then retrieval or verification metrics.

`evaluate_embeddings` takes any function from pixels to embeddings, so that a torch module in training, an ONNX file
and a served model are all measured by the same code; `evaluate` takes a model reference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..converters.runners import Runner
from .data.dataset import Dataset
from .data.decoding import Pixels, read_pixels
from .data.sources import Subset, open_dataset
from .data.splits import draw_pairs, has_cameras, query_and_gallery
from .embedders import Embed, open_embedder
from .model_preprocessing import PreprocessingName
from .retrieval import RetrievalResult, measure_retrieval
from .verification import VerificationResult, measure_verification

__all__ = [
    "EvaluationResult",
    "Protocol",
    "choose_protocol",
    "embed_images",
    "evaluate",
    "evaluate_embeddings",
    "evaluate_pixels",
]

Protocol = Literal["retrieval", "verification"]
EvaluationResult = RetrievalResult | VerificationResult


def choose_protocol(dataset: Dataset) -> Protocol:
    """Retrieval for images with cameras or fixed queries, verification for the rest."""
    if dataset.pairs is None and (dataset.is_query is not None or has_cameras(dataset)):
        return "retrieval"
    return "verification"


def evaluate_embeddings(
    embed: Embed,
    dataset: Dataset,
    protocol: Protocol | None = None,
    *,
    resize: Callable[[Image.Image], NDArray[np.uint8]],
    flip: bool = True,
    batch: int = 64,
) -> EvaluationResult:
    """Measure `embed` on `dataset`; `resize` brings an image to the pixels it wants (`Preprocessing.resize`).

    Args:
        protocol: By default what the data set's labels allow, see `choose_protocol`.
        flip: Add the embedding of the mirror image.
        batch: Images embedded at a time.

    Raises:
        DataError: the data set does not fit the protocol, or over 1 % of its images cannot be read.
    """
    return evaluate_pixels(embed, read_pixels(dataset, resize), protocol, flip=flip, batch=batch)


def evaluate_pixels(
    embed: Embed, pixels: Pixels, protocol: Protocol | None = None, *, flip: bool = True, batch: int = 64
) -> EvaluationResult:
    """As `evaluate_embeddings`, on images already read."""
    dataset = pixels.dataset
    protocol = protocol or choose_protocol(dataset)
    embeddings = embed_images(embed, pixels.values, flip=flip, batch=batch)
    if protocol == "retrieval":
        query, gallery = query_and_gallery(dataset)
        return measure_retrieval(
            embeddings[query],
            embeddings[gallery],
            dataset.identities[query],
            dataset.identities[gallery],
            dataset.cameras[query],
            dataset.cameras[gallery],
        )
    pairs = dataset.pairs if dataset.pairs is not None else draw_pairs(dataset.identities)
    return measure_verification(embeddings, dataset.identities, pairs, known_identities=dataset.pairs is None)


def embed_images(embed: Embed, pixels: NDArray[np.uint8], *, flip: bool, batch: int) -> NDArray[np.float32]:
    """Embeddings [N, D] of uint8 [N, H, W, C]; with `flip`, the sum with those of the mirrored images."""
    rows = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        embeddings = embed(part)
        if flip:
            embeddings = embeddings + embed(np.ascontiguousarray(part[:, :, ::-1]))
        rows.append(embeddings)
    return np.concatenate(rows)


def evaluate(
    reference: str | Path | Runner,
    data: str | Path,
    *,
    protocol: Protocol | None = None,
    subset: Subset = "test",
    flip: bool = True,
    batch: int = 64,
    output: int = 0,
    device: str = "cpu",
    preprocessing: PreprocessingName = "auto",
    size: tuple[int, int] | None = None,
) -> EvaluationResult:
    """Measure a model reference on a data set: retrieval or verification, see `choose_protocol`.

    An ONNX file runs in ONNX Runtime (a fixed batch is padded), everything else in torch; a runner that is open
    already, such as a served model's, is measured as it is.

    Args:
        data: What `open_dataset` takes.
        subset: The side of a data set with fixed sides.
        output: Which output is the embedding.
        preprocessing: Normalisation, for models that do not say.
        size: Height and width, for models that do not say.

    Raises:
        InputError: the model or the data set does not exist, or the size is unknown.
        DataError: the data set does not fit the protocol, or cannot be read.
    """
    dataset = open_dataset(data, subset)
    model = open_embedder(reference, batch=batch, output=output, device=device, preprocessing=preprocessing, size=size)
    return evaluate_embeddings(
        model.embed, dataset, protocol, resize=model.preprocessing.resize, flip=flip, batch=batch
    )
