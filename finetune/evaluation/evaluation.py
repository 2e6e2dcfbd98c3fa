"""Evaluate a model on a data set: embed every image (and its mirror image), then measure.

`evaluate_embeddings` measures any function from pixels to embeddings, so that a torch module in training, an ONNX file
and a served model are all measured by the same code; `evaluate` opens a model reference first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.probes.given_probes import Probe
from ...converters.runtime.runners import Runner
from ...errors import ConfigError
from ..data.dataset import Dataset
from ..data.decoding import Pixels, Resize, images_read
from ..data.distinct_images import content_numbers
from ..data.formats.sources import Subset
from ..embedding.cache import EmbeddingCache
from ..embedding.embed_images import EmbedImages
from ..embedding.embedders import Embed, Embedder, open_embedder
from ..embedding.image_digests import pixel_digests
from .cores import Progress, no_progress
from .embedded_sets import embed_dataset
from .matched_images import match_images
from .measuring import EvaluationResult, Measured, measure, write_roc
from .model_sets import EvaluationSettings, measure_sets
from .own_function import OwnFunction
from .plan import Protocol, plan_evaluation
from .ranks.ranking import COSINE, Distance, Ranking
from .scores.scoring import PairScoring, ScoreSettings

_BATCHES_AT_ONCE = 2
"""Between two reports of progress."""

__all__ = ["EvaluationResult", "evaluate", "evaluate_embeddings", "evaluate_pixels"]


def evaluate_embeddings(
    embed: Embed,
    dataset: Dataset,
    protocol: Protocol | None = None,
    *,
    resize: Resize,
    flip: bool = True,
    batch: int = 64,
    ranking: Ranking = COSINE,
    function: OwnFunction | None = None,
    roc: Path | None = None,
    cache: EmbeddingCache | None = None,
    report: Callable[[str], object] | None = None,
    progress: Progress = no_progress,
    scores: ScoreSettings | None = None,
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
        function: Measures instead of a protocol, see `own_function`.
        roc: A CSV file to write the ROC of a verification into.
        cache: Embeddings that are known, of this `embed`, `resize` and `flip`.
        report: Called with a line about images that could not be read.
        progress: Called with what is done, how much of it, and how much there is.
        scores: By what pairs are compared, where that is more than the embedding.

    Raises:
        ConfigError: re-ranking of a verification, the ROC of a retrieval, or a `function` that fails.
        DataError: the data set does not fit the protocol, or over 1 % of its images cannot be read.
        GateError: embeddings are not finite.
    """
    chosen = "function" if function is not None else protocol
    plan = plan_evaluation(dataset, chosen, ranking)
    if roc is not None and plan.protocol != "verification":
        raise ConfigError(f"{roc}: a ROC is of a verification, and {dataset.name} is measured by {plan.protocol}")
    with EmbedImages(embed, flip=flip, batch=batch, cache=cache) as embed_known:
        embedded = embed_dataset(embed_known, dataset, resize, batch=batch, report=report, progress=progress)
    matched = match_images(embedded.dataset, embedded.contents, chosen, ranking)
    if report is not None:
        for note in matched.notes:
            report(f"{dataset.name}: {note}")
    scoring = None
    if scores is not None:
        scoring = PairScoring(scores, images_read(embedded.dataset, resize), flip, batch)
    measured = measure(matched, embedded.embeddings[matched.positions], function, progress, scoring)
    if roc is not None and measured.compared is not None:
        write_roc(roc, measured.compared)
    return measured.result


def evaluate_pixels(
    embed: Embed,
    pixels: Pixels,
    protocol: Protocol | None = None,
    *,
    flip: bool = True,
    batch: int = 64,
    ranking: Ranking = COSINE,
    function: OwnFunction | None = None,
    cache: EmbeddingCache | None = None,
    progress: Progress = no_progress,
    scores: ScoreSettings | None = None,
) -> EvaluationResult:
    """As `evaluate_embeddings`, on images that are in memory."""
    chosen = "function" if function is not None else protocol
    matched = match_images(pixels.dataset, content_numbers(pixels.values), chosen, ranking)
    digests = None if cache is None else pixel_digests(pixels.values)
    rows = []
    progress(f"embedding {pixels.dataset.name}", 0, len(pixels.values))
    with EmbedImages(embed, flip=flip, batch=batch, cache=cache) as embed_known:
        for start in range(0, len(pixels.values), _BATCHES_AT_ONCE * batch):
            part = slice(start, start + _BATCHES_AT_ONCE * batch)
            rows.append(embed_known(pixels.values[part], None if digests is None else digests[part]))
            progress(f"embedding {pixels.dataset.name}", start + len(rows[-1]), len(pixels.values))
    embeddings = np.concatenate(rows)[matched.positions]
    scoring = None if scores is None else PairScoring(scores, lambda numbers: pixels.values[numbers], flip, batch)
    return measure(matched, embeddings, function, progress, scoring).result


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
    ranking: Ranking | None = None,
    function: str | None = None,
    limit: int | None = None,
    roc: Path | None = None,
    weights: str | Path | None = None,
    probes: Mapping[str, Probe] | None = None,
    cache: str | Path | None = None,
    report: Callable[[str], object] | None = None,
    progress: Progress = no_progress,
) -> EvaluationResult:
    """Measure a model reference on a data set; by default retrieval or verification, see `choose_protocol`.

    Args:
        reference: A model reference, as `open_embedder`, or a runner or embedder that is open; its own options count.
        data, protocol: What `open_dataset` accepts; by default what its labels allow, see `choose_protocol`.
        subset: The side of a data set with fixed sides (Market-1501, MSMT17).
        flip, batch, cache: Add the mirror image's embedding; images per batch, or "auto"; a folder of known embeddings.
        output, device, weights: Number of the embedding output, from 0; "cpu" or "cuda:N"; a state_dict to load first.
        preprocessing, size, probes: How images are prepared, their size, and other inputs, as in `open_embedder`.
        rerank, distance, ranking: How the gallery is ranked: the two usual choices, or all of them, see `Ranking`.
        function, limit: `module:name` that measures instead, see `own_function`; see `limit_dataset`.
        roc: A CSV file for the ROC of a verification.
        report, progress: Called with a line about each thing left out and about `weights`; with what is done.

    Raises:
        ConfigError: a ranking asked of a verification, the ROC of a retrieval, or a `function` that fails.
        InputError: the model or the data set does not exist, the size is unknown, or `weights` does not fit.
        DataError: the data set does not fit the protocol, or cannot be read, or embeddings are not finite.

    Examples:
        >>> people = "synthetic-people:identities=4,images=8,seed=2,size=16x8"
        >>> result = rtool.evaluate("model.onnx", people)
        >>> result.protocol, result.queries, result.gallery
        ('retrieval', 16, 16)
    """
    settings = EvaluationSettings(protocol, ranking or Ranking(distance, rerank), flip, subset, limit, function)
    options: dict[str, Any] = {"batch": batch, "output": output, "device": device, "size": size, "probes": probes}
    model = _as_embedder(reference, preprocessing=preprocessing, weights=weights, **options)
    sets = measure_sets(model, {"": data}, settings, roc=roc, cache=cache, report=report, progress=progress)
    measured: Measured = next(iter(sets))[1]
    return measured.result


def _as_embedder(reference: str | Path | Runner | Embedder, **options: Any) -> Embedder:
    return reference if isinstance(reference, Embedder) else open_embedder(reference, **options)
