"""One model measured on one or several named data sets, one after the other.

All sets are opened and planned before the first image is embedded, so that a mistake is found at once; each set is
handed over as soon as it is measured, so that a later failure loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...converters.zoo.facts import FACTS
from ...errors import ConfigError, DataError, GateError
from ..data.dataset import Dataset
from ..data.formats.sources import Subset, open_dataset
from ..embedding.embed_images import EmbedImages
from ..embedding.embedders import Embedder
from .cores import Progress, no_progress
from .embedded_sets import EmbeddedSet, embed_dataset
from .limits import limit_dataset
from .matched_images import MatchedImages, match_images
from .measuring import Measured, measure, write_roc
from .own_function import OwnFunction, load_function
from .pairs.verification import VERIFICATION_METRICS
from .plan import EvaluationPlan, Protocol, plan_evaluation, refuse_ranking
from .ranks.ranking import COSINE, Ranking
from .templates.template_folder import TemplateSet, is_template_folder, open_template_folder
from .templates.template_verification import compare_templates

__all__ = ["EvaluationSettings", "Report", "embedded_by", "measure_sets", "opened_set", "random_weights_warning"]

Report = Callable[[str], object]


@dataclass(frozen=True)
class EvaluationSettings:
    """How sets are measured."""

    protocol: Protocol | None = None
    """By default what the labels allow."""
    ranking: Ranking = COSINE
    flip: bool = True
    """Add the embedding of the mirror image."""
    subset: Subset = "test"
    """The side of a data set with fixed sides."""
    limit: int | None = None
    """See `limit_dataset`."""
    function: str | None = None
    """`module:name`, see `own_function`; it measures instead of a protocol."""

    @property
    def chosen(self) -> Protocol | None:
        """The protocol, "function" where one's own function measures.

        Raises:
            ConfigError: both are given.
        """
        if self.function is None:
            return self.protocol
        if self.protocol is not None:
            raise ConfigError(f"evaluation.function measures instead of a protocol; leave {self.protocol} out")
        return "function"


def random_weights_warning(reference: str, *, weighted: bool) -> str:
    """A warning for the name of an architecture without weights, "" for every other reference."""
    if weighted or reference not in FACTS:
        return ""
    return (
        f"{reference} has random weights: these figures are of no trained model; give --weights FILE.pth, or the model "
        "that you trained"
    )


def measure_sets(
    model: Embedder,
    sources: Mapping[str, str | Path],
    settings: EvaluationSettings,
    *,
    against: Embedder | None = None,
    roc: Path | None = None,
    cache: str | Path | None = None,
    report: Report | None = None,
    progress: Progress = no_progress,
) -> Iterator[tuple[str, Measured, Measured | None]]:
    """Measure each set; hands over its name, the measure, and that of `against` on the same images.

    Args:
        model: What is measured.
        sources: Data sets by name, as `open_dataset` takes them; a single one may be named "".
        settings: How.
        against: A second model.
        roc: A CSV file for the ROC of a verification.
        cache: A folder of known embeddings.
        report: Called with a line about each thing left out.
        progress: Called with what is done.

    Raises:
        ConfigError, InputError: as `evaluate`.
        DataError: a set does not fit the protocol or cannot be read, or embeddings are not finite.
    """
    function = None if settings.function is None else load_function(settings.function)
    opened = {name: opened_set(source, settings) for name, source in sources.items()}
    datasets = {name: each.dataset if isinstance(each, TemplateSet) else each for name, each in opened.items()}
    protocols = {_protocol(each, settings) for each in opened.values()}
    if roc is not None and (protocols != {"verification"} or len(datasets) > 1):
        first = next(iter(datasets.values())).name
        found = f"{len(datasets)} sets are given" if len(datasets) > 1 else f"{first} is measured by {min(protocols)}"
        raise ConfigError(f"{roc}: a ROC is of a verification of one set, and {found}")
    if against is not None and (unfit := protocols & {"classification", "function"}):
        raise ConfigError(
            f"--against: {min(unfit)} has no interval; only retrieval, verification and templates compare two models"
        )
    models = [model] if against is None else [model, against]
    for line in [note for each in models for note in each.notes]:
        _tell(report, line)
    for name, dataset in datasets.items():
        for note in (opened[name], *dataset.notes):
            _tell(report, f"{dataset.name}: {note}")
        embedded = [embedded_by(each, dataset, settings, cache, report, progress) for each in models]
        templates = opened[name]
        if isinstance(templates, TemplateSet):
            measured = [_of_templates(templates, each, progress) for each in embedded]
        else:
            measured = _measured(embedded, settings, function, report, progress)
        if roc is not None and measured[0].compared is not None:
            write_roc(roc, measured[0].compared)
        yield name, measured[0], measured[1] if len(measured) > 1 else None


def opened_set(source: str | Path, settings: EvaluationSettings) -> Dataset | TemplateSet:
    """A data set as it is measured; no image is decoded.

    Raises:
        ConfigError, DataError, InputError: as `measure_sets`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir() and is_template_folder(folder):
        if settings.limit is not None or settings.chosen is not None:
            raise ConfigError(
                f"{source}: a template set has its own protocol and pairs; leave the limit, the protocol and the "
                "function out"
            )
        return open_template_folder(folder)
    dataset = open_dataset(source, settings.subset)
    return dataset if settings.limit is None else limit_dataset(dataset, settings.limit)


def _protocol(opened: Dataset | TemplateSet, settings: EvaluationSettings) -> Protocol:
    """The protocol of a set; refuses what does not fit it."""
    if isinstance(opened, TemplateSet):
        refuse_ranking(opened.dataset, "templates", settings.ranking)
        return "templates"
    return plan_evaluation(opened, settings.chosen, settings.ranking).protocol


def _of_templates(labels: TemplateSet, embedded: EmbeddedSet, progress: Progress) -> Measured:
    compared, result = compare_templates(labels, embedded.positions, embedded.embeddings, progress)
    metrics = tuple(name for name in VERIFICATION_METRICS if getattr(result, name) is not None)
    plan = EvaluationPlan("templates", metrics, pairs=labels.pairs)
    matched = MatchedImages(plan, embedded.dataset, embedded.positions, ())
    return Measured(matched, embedded.embeddings, result, compared=compared)


def embedded_by(
    model: Embedder,
    dataset: Dataset,
    settings: EvaluationSettings,
    cache: str | Path | None,
    report: Report | None,
    progress: Progress,
) -> EmbeddedSet:
    """A data set embedded by a model.

    Raises:
        DataError: over 1 % of the images cannot be read, or embeddings are not finite.
    """
    kept = None if cache is None else model.cache(cache, flip=settings.flip, report=report)
    try:
        with EmbedImages(model.embed, flip=settings.flip, batch=model.batch, cache=kept) as embed:
            return embed_dataset(
                embed, dataset, model.preprocessing.resize, batch=model.batch, report=report, progress=progress
            )
    except GateError as error:
        raise DataError(f"{model.name} on {dataset.name}: {error}") from error


def _measured(
    embedded: list[EmbeddedSet],
    settings: EvaluationSettings,
    function: OwnFunction | None,
    report: Report | None,
    progress: Progress,
) -> list[Measured]:
    """Both models on the images that the first one's pixels say are different ones."""
    first = embedded[0]
    if any(len(other.positions) != len(first.positions) for other in embedded):
        raise DataError(f"{first.dataset.name}: the two models cannot read the same images")
    matched = match_images(first.dataset, first.contents, settings.chosen, settings.ranking)
    for note in matched.notes:
        _tell(report, f"{first.dataset.name}: {note}")
    return [measure(matched, each.embeddings[matched.positions], function, progress) for each in embedded]


def _tell(report: Report | None, line: str) -> None:
    if report is not None:
        report(line)
