"""One model's pairs measured on one or several named data sets, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ....errors import ConfigError, DataError, GateError
from ...embedding.embedders import Embedder
from ..cores import Progress, no_progress
from ..measuring import Measured
from ..model_sets import EvaluationSettings, Report, embedded_by, opened_set
from ..scores.score_results import check_scores
from ..scores.scoring import ScoreSettings
from ..templates.template_folder import TemplateSet
from .all_pairs import every_pair, protocol_pairs
from .masked_images import mask_points
from .pair_evaluation import MeasuredPairs, PairSettings, measure_pairs

__all__ = ["measure_pair_sets"]


def measure_pair_sets(
    model: Embedder,
    sources: Mapping[str, str | Path],
    settings: EvaluationSettings,
    scores: ScoreSettings,
    pairs: PairSettings,
    *,
    cache: str | Path | None = None,
    report: Report,
    progress: Progress = no_progress,
) -> Iterator[tuple[str, Measured, MeasuredPairs]]:
    """Measure the pairs of each set; all are opened and checked before the first image is embedded.

    Args:
        model: What is measured.
        sources: Data sets by name, as `open_dataset` takes them; a single one may be named "".
        settings: Mirror images, sides of sets and limits; the protocol is verification.
        scores: By what pairs are compared.
        pairs: Masks, and false accept rates.
        cache: A folder of known embeddings, of images without masks.
        report: Called with a line about each thing left out.
        progress: Called with what is done.

    Raises:
        ConfigError: another protocol is asked, a score needs a matcher, or where faces are is not known.
        DataError: a set has too many pairs or too few, cannot be read, or embeddings are not finite.
        InputError: a set does not exist.
    """
    check_scores(scores.scores, matcher=scores.matcher is not None, setting="--scores")
    if settings.chosen not in (None, "verification"):
        raise ConfigError(f"--scores and --masked compare pairs; leave {settings.chosen} out")
    opened = {name: opened_set(source, settings) for name, source in sources.items()}
    for dataset in opened.values():
        if isinstance(dataset, TemplateSet):
            raise ConfigError(
                f"{dataset.dataset.name}: a template set lists its own pairs of templates; measure it alone"
            )
        every_pair(dataset)
        protocol_pairs(dataset)
        mask_points(pairs.masks, dataset, model.preprocessing.height, model.preprocessing.width)
    for line in model.notes:
        report(line)
    for name, dataset in opened.items():
        if isinstance(dataset, TemplateSet):
            continue
        for note in (dataset, *dataset.notes):
            report(f"{dataset.name}: {note}")
        embedded = embedded_by(model, dataset, settings, cache, report, progress)
        try:
            measured = measure_pairs(
                model, embedded, scores, pairs, flip=settings.flip, report=report, progress=progress
            )
        except GateError as error:
            raise DataError(f"{model.name} on {dataset.name}: {error}") from error
        yield name, *measured
