"""Measure pairs of images by several scores: all pairs of a data set or its listed ones, with masks where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ....errors import ConfigError, DataError, GateError
from ...data.dataset import Dataset
from ...data.decoding import images_read
from ...data.distinct_images import one_of_each, refuse_two_identities
from ...embedding.embed_images import embed_images
from ...embedding.embedders import Embedder
from ...embedding.unit_embeddings import unit_rows
from ..cores import Progress, no_progress
from ..embedded_sets import EmbeddedSet
from ..matched_images import MatchedImages
from ..measuring import Measured
from ..pairs.pair_scores import pair_cosines
from ..pairs.true_accepts import ScoredPairs
from ..pairs.verification import joined_by_same
from ..plan import EvaluationPlan
from ..scores.pair_matching import PairMatcher, match_pairs
from ..scores.score_results import ScoredSet, ScoresResult, measure_scores
from ..scores.scoring import ScoreSettings
from .all_pairs import every_pair, protocol_pairs
from .masked_images import MaskedImages, MaskSettings, mask_points

__all__ = ["FARS", "MeasuredPairs", "PairSettings", "measure_pairs"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

FARS = (1e-3, 1e-4)
_EMBEDDED_AT_ONCE = 512


@dataclass(frozen=True)
class PairSettings:
    """What is asked beside the scores themselves."""

    masks: MaskSettings = field(default_factory=MaskSettings)
    fars: tuple[float, ...] = FARS
    """False accept rates at which the verification rate is stated, above 0, at most 1."""

    def __post_init__(self) -> None:
        wrong = next((far for far in self.fars if not 0 < far <= 1), None)
        if wrong is not None or not self.fars:
            raise ConfigError(f"--far {wrong if wrong is not None else ''}: give rates above 0, at most 1")


@dataclass(frozen=True)
class MeasuredPairs:
    """The pairs of a set with their scores, and what a report needs to show them."""

    result: ScoresResult
    settings: PairSettings
    images: MaskedImages
    numbers: Indices
    """The two images of each scored pair as `images` knows them, int64 [S, 2]."""
    listed: bool
    matcher: PairMatcher | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line about the false accept rates asked that the impostor pairs cannot resolve."""
        scored = next(iter(self.result.many.values()))
        lacking = [far for far in self.settings.fars if not scored.resolves(far)]
        if not lacking:
            return ()
        rates = ", ".join(f"{far:g}" for far in lacking)
        return (
            f"VR at FAR {rates} is not measured: too few impostors, {scored.different:,} pairs of two identities where "
            f"{round(1 / min(lacking)):,} are needed",
        )

    @property
    def main_score(self) -> str:
        """The combined score, else the last."""
        scores = list(self.result.results)
        return "combined" if "combined" in scores else scores[-1]


def measure_pairs(
    model: Embedder,
    embedded: EmbeddedSet,
    scores: ScoreSettings,
    settings: PairSettings,
    *,
    flip: bool,
    report: Callable[[str], object] = print,
    progress: Progress = no_progress,
) -> tuple[Measured, MeasuredPairs]:
    """Measure the pairs of an embedded data set.

    Args:
        model: Embeds images with masks.
        embedded: Its images as they are.
        scores: By what pairs are compared.
        settings: Masks, and false accept rates.
        flip: Whether mirror images take part.
        report: Called with a line about copies of images.
        progress: Called with what is done.

    Raises:
        ConfigError: where faces are is not known, or a score needs a matcher.
        DataError: too many pairs, or too few.
        GateError: embeddings or scores are not finite.
    """
    dataset, positions = _distinct(embedded, report)
    preprocessing = model.preprocessing
    points = mask_points(settings.masks, dataset, preprocessing.height, preprocessing.width)
    images = MaskedImages(dataset, images_read(dataset, preprocessing.resize), settings.masks, points)
    pairs, listed = protocol_pairs(dataset), dataset.pairs is not None
    many = pairs if listed else every_pair(dataset)
    moved, moved_many = images.pairs(pairs), images.pairs(many)
    unit = _all_units(model, embedded.embeddings[positions], images, (moved, moved_many), flip=flip, progress=progress)

    def matches_of(asked: Indices) -> Floats | None:
        if scores.matcher is None or scores.alone:
            return None
        return match_pairs(scores.matcher, images.read, asked, flip=flip, batch=model.batch, report=progress)

    people = joined_by_same(len(dataset), pairs) if listed else dataset.identities
    cosines = pair_cosines(unit, moved_many, progress)
    matches = matches_of(moved)
    scored = ScoredSet(
        pairs=pairs,
        cosines=cosines if listed else pair_cosines(unit, moved, progress),
        matches=matches,
        many=ScoredPairs(cosines, many[:, 2] == 1, people[many[:, :2]]),
        many_images=many[:, :2],
        many_matches=matches if listed else matches_of(moved_many),
        listed=listed,
    )
    result = measure_scores(scored, scores.scores, scores.combination, progress)
    metrics = tuple(f"{score}.{name}" for score in result.results for name in ("accuracy", "auc", "eer"))
    matched = MatchedImages(EvaluationPlan("verification", metrics, pairs=pairs), dataset, positions, ())
    measured = Measured(matched, embedded.embeddings[positions], result)
    return measured, MeasuredPairs(result, settings, images, moved_many[:, :2], listed, scores.matcher)


def _distinct(embedded: EmbeddedSet, report: Callable[[str], object]) -> tuple[Dataset, Indices]:
    """The images without copies, for an image and its copy are no genuine pair; listed pairs stay as they are."""
    dataset = embedded.dataset
    if dataset.pairs is not None:
        return dataset, np.arange(len(dataset))
    refuse_two_identities(dataset, embedded.contents)
    positions, notes = one_of_each(dataset, embedded.contents)
    for note in notes:
        report(f"{dataset.name}: {note}")
    return (dataset.subset(positions) if notes else dataset), positions


def _all_units(
    model: Embedder,
    embeddings: Floats,
    images: MaskedImages,
    asked: Sequence[Indices],
    *,
    flip: bool,
    progress: Progress,
) -> Floats:
    """Unit embeddings [3 N, D] of images as they are and as the first and the second of pairs, where they are asked."""
    count = len(embeddings)
    plain = unit_rows(embeddings)
    masked = np.unique(np.concatenate([pairs[:, :2].ravel() for pairs in asked]))
    masked = masked[masked >= count]
    if not masked.size:
        return plain
    unit = np.zeros((3 * count, plain.shape[1]), dtype=np.float32)
    unit[:count] = plain
    for start in range(0, len(masked), _EMBEDDED_AT_ONCE):
        part = masked[start : start + _EMBEDDED_AT_ONCE]
        try:
            rows = embed_images(model.embed, images.read(part), flip=flip, batch=model.batch)
        except GateError as error:
            raise DataError(f"{model.name} on {images.dataset.name} with masks: {error}") from error
        unit[part] = unit_rows(rows)
        progress(f"embedding {images.dataset.name} with masks", start + len(part), len(masked))
    return unit
