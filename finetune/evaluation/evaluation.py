"""Evaluate a model on a data set: embed every image (and its mirror image), then retrieval or verification metrics.

`evaluate_embeddings` measures any function from pixels to embeddings, so that a torch module in training, an ONNX file
and a served model are all measured by the same code; `evaluate` opens a model reference first.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.runners import Runner
from ...errors import ConfigError, DataError, InputError
from ..data.dataset import Dataset
from ..data.decoding import Pixels, Resize, stream_pixels, unreadable_note
from ..data.distinct_images import Contents, content_numbers
from ..data.formats.sources import Subset, open_dataset
from ..embedding.cache import EmbeddingCache
from ..embedding.embed_images import EmbedImages, embed_images
from ..embedding.embedders import Embed, Embedder, open_embedder
from ..embedding.image_digests import DigestedImages
from ..embedding.unit_embeddings import unit_rows
from .matched_images import MatchedImages, match_images
from .pairs.receiver_curve import ReceiverCurve
from .pairs.verification import VerificationResult, measure_verification, scored_pairs
from .plan import Protocol, plan_evaluation
from .ranks.ranking import COSINE, Distance, Ranking
from .ranks.retrieval import RetrievalResult, measure_retrieval

__all__ = [
    "EvaluationResult",
    "evaluate",
    "evaluate_embeddings",
    "evaluate_pixels",
]

Floats = NDArray[np.float32]
EvaluationResult = RetrievalResult | VerificationResult


def evaluate_embeddings(
    embed: Embed,
    dataset: Dataset,
    protocol: Protocol | None = None,
    *,
    resize: Resize,
    flip: bool = True,
    batch: int = 64,
    ranking: Ranking = COSINE,
    roc: Path | None = None,
    cache: EmbeddingCache | None = None,
    report: Callable[[str], object] | None = None,
) -> EvaluationResult:
    """Measure `embed` on `dataset`; images are decoded batch by batch, unreadable ones left out.

    Args:
        embed: From pixels uint8 [N, H, W, C] to embeddings float32 [N, D].
        dataset: The images and their labels.
        protocol: By default what the data set's labels allow, see `choose_protocol`.
        resize: From an image to its pixels uint8 [H, W, C], such as `Preprocessing.resize`.
        flip: Add the embedding of the mirror image.
        batch: Images per batch.
        ranking: How retrieval ranks the gallery.
        roc: A CSV file to write the ROC of a verification into.
        cache: Embeddings that are known, of this `embed`, `resize` and `flip`.
        report: Called with a line about images that could not be read.

    Raises:
        ConfigError: re-ranking of a verification, or the ROC of a retrieval.
        DataError: the data set does not fit the protocol, or over 1 % of its images cannot be read.
        GateError: embeddings are not finite.
    """
    plan = plan_evaluation(dataset, protocol, ranking)
    if roc is not None and plan.protocol != "verification":
        raise ConfigError(f"{roc}: a ROC is of a verification, and {dataset.name} is measured by {plan.protocol}")
    with EmbedImages(embed, flip=flip, batch=batch, cache=cache) as embed_known:
        dataset, embeddings, contents = _embed_streamed(embed_known, dataset, resize, batch=batch, report=report)
    matched = match_images(dataset, contents, protocol, ranking)
    if report is not None:
        for note in matched.notes:
            report(f"{dataset.name}: {note}")
    embeddings = embeddings[matched.positions]
    if roc is not None:
        _write_roc(roc, matched, embeddings)
    return _measure(matched, embeddings)


def _embed_streamed(
    embed: EmbedImages,
    dataset: Dataset,
    resize: Resize,
    *,
    batch: int,
    report: Callable[[str], object] | None,
) -> tuple[Dataset, Floats, Contents]:
    """The readable part of `dataset`, its embeddings and contents; one batch of images is held at a time."""
    rows, chosen, contents = [], [], []
    digested = DigestedImages(dataset.images) if embed.cache is not None else None
    streamed = dataset if digested is None else replace(dataset, images=digested)
    for positions, pixels in stream_pixels(streamed, resize, batch):
        rows.append(embed(pixels, None if digested is None else digested.digests[positions]))
        contents.append(content_numbers(pixels))
        chosen.append(positions)
    if not chosen:
        raise DataError(f"{dataset.name}: no image can be read")
    readable = np.concatenate(chosen)
    if len(readable) < len(dataset):
        if report is not None:
            lost = np.setdiff1d(np.arange(len(dataset)), readable)
            report(unreadable_note(dataset.name, (dataset.names[index] for index in lost)))
        dataset = dataset.subset(readable)
    return dataset, np.concatenate(rows), np.concatenate(contents)


def evaluate_pixels(
    embed: Embed,
    pixels: Pixels,
    protocol: Protocol | None = None,
    *,
    flip: bool = True,
    batch: int = 64,
    ranking: Ranking = COSINE,
) -> EvaluationResult:
    """As `evaluate_embeddings`, on images that are in memory."""
    matched = match_images(pixels.dataset, content_numbers(pixels.values), protocol, ranking)
    return _measure(matched, embed_images(embed, pixels.values, flip=flip, batch=batch)[matched.positions])


def _measure(matched: MatchedImages, embeddings: Floats) -> EvaluationResult:
    plan, dataset = matched.plan, matched.dataset
    if plan.protocol == "retrieval":
        query, gallery = plan.query, plan.gallery
        return measure_retrieval(
            embeddings[query],
            embeddings[gallery],
            dataset.identities[query],
            dataset.identities[gallery],
            dataset.cameras[query],
            dataset.cameras[gallery],
            ranking=plan.ranking,
        )
    return measure_verification(embeddings, dataset.identities, plan.pairs, known_identities=dataset.pairs is None)


def _write_roc(path: Path, matched: MatchedImages, embeddings: Floats) -> None:
    """Write false and true accept rates as CSV, over the pairs that TAR@FAR is measured on."""
    plan, dataset = matched.plan, matched.dataset
    known = dataset.pairs is None
    scored, _ = scored_pairs(unit_rows(embeddings), dataset.identities, plan.pairs, known_identities=known)
    points = ReceiverCurve(scored.scores, scored.is_same).points()
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("far", "tar"), *points])
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def evaluate(
    reference: str | Path | Runner | Embedder,
    data: str | Path,
    *,
    protocol: Protocol | None = None,
    subset: Subset = "test",
    flip: bool = True,
    batch: int | Literal["auto"] = 64,
    output: int = 0,
    device: str = "cpu",
    preprocessing: str | Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    rerank: bool = False,
    distance: Distance = "cosine",
    roc: Path | None = None,
    weights: str | Path | None = None,
    cache: str | Path | None = None,
    report: Callable[[str], object] | None = None,
) -> EvaluationResult:
    """Measure a model reference on a data set: retrieval or verification, see `choose_protocol`.

    Args:
        reference: A model reference, as `open_embedder`, or a runner or embedder that is open; its own options count.
        data, protocol: What `open_dataset` accepts; by default what its labels allow, see `choose_protocol`.
        subset: The side of a data set with fixed sides (Market-1501, MSMT17).
        flip, batch, cache: Add the mirror image's embedding; images per batch, or "auto"; a folder of known embeddings.
        output, device, weights: Number of the embedding output, from 0; "cpu" or "cuda:N"; a state_dict to load first.
        preprocessing, size: How images are prepared, and their size in pixels, as in `open_embedder`.
        rerank, distance, roc: How the gallery is ranked, see `Ranking`; a CSV file for the ROC of a verification.
        report: Called with a line about each thing left out of the data set, and about `weights`.

    Raises:
        ConfigError: a ranking asked of a verification, or the ROC of a retrieval.
        InputError: the model or the data set does not exist, the size is unknown, or `weights` does not fit.
        DataError: the data set does not fit the protocol, or cannot be read.
        GateError: embeddings are not finite.

    Examples:
        >>> people = "synthetic-people:identities=4,images=8,seed=2,size=16x8"
        >>> result = rtool.evaluate("model.onnx", people)
        >>> result.protocol, result.queries, result.gallery
        ('retrieval', 16, 16)
    """
    dataset = open_dataset(data, subset)
    model = _as_embedder(
        reference, batch=batch, output=output, device=device, preprocessing=preprocessing, size=size, weights=weights
    )
    _tell(report, (*(f"{dataset.name}: {note}" for note in (dataset, *dataset.notes)), *model.notes))
    return evaluate_embeddings(
        model.embed,
        dataset,
        protocol,
        resize=model.preprocessing.resize,
        flip=flip,
        batch=model.batch,
        ranking=Ranking(distance, rerank),
        roc=roc,
        cache=None if cache is None else model.cache(cache, flip=flip, report=report),
        report=report,
    )


def _tell(report: Callable[[str], object] | None, lines: Iterable[str]) -> None:
    for line in lines:
        if report is not None:
            report(line)


def _as_embedder(reference: str | Path | Runner | Embedder, **options: Any) -> Embedder:
    return reference if isinstance(reference, Embedder) else open_embedder(reference, **options)
