"""The `distil` section: teachers, the terms that compare a student with them, and images without labels.

Formulas and papers are in `distillation/losses.py`. A teacher is any model reference; it runs beside the student, never
learns and is never saved with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .section import Count, FilePath, NotNegative, Place, Positive, Section
from .sources import TrainingSources

__all__ = [
    "EMA",
    "AngleTerm",
    "CentresTerm",
    "CosineTerm",
    "DistanceTerm",
    "DistilConfig",
    "DistilTerm",
    "FeaturesTerm",
    "LogitsTerm",
    "SimilarityTerm",
    "TeacherConfig",
]

EMA = "ema"
"""The reference of the teacher that is the student's own moving average."""


class TeacherConfig(Section):
    """A model whose outputs the student learns."""

    reference: Place
    """Any model reference: an .onnx file, a bundle, a run folder, a zoo name with `weights`, or
    triton://host:port/model; or ema, the student's own moving average (optimizer.ema)."""
    runtime: Literal["torch", "onnxruntime"] = "torch"
    """torch: converted, on the run's device; onnxruntime: an .onnx file as it is. triton:// is always served."""
    preprocessing: str = "auto"
    """How its images are prepared, as model.preprocessing."""
    size: tuple[Count, Count] | None = None
    """Height and width of its input in pixels; by default the teacher's own."""
    output: Annotated[int, Field(ge=0)] = 0
    """Which output is the embedding, for networks with several."""
    logits: Annotated[int, Field(ge=0)] | None = None
    """Which output holds the scores of the training identities, for the term logits; null: none does."""
    weights: FilePath | None = None
    """A state_dict file loaded over the reference's weights, as model.weights; in torch."""
    weight: Positive = 1.0
    """Factor of this teacher in every term; the terms are divided by the sum over teachers."""


class CosineTerm(Section):
    """1 - cosine between the embeddings of student and teacher; needs no labels."""

    kind: Literal["cosine"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""


class DistanceTerm(Section):
    """RKD-D (arXiv:1904.05068): Huber loss between distances within the batch, divided by their mean; no labels."""

    kind: Literal["rkd_distance"]
    weight: Positive = 25.0
    """Factor in the sum of losses."""


class AngleTerm(Section):
    """RKD-A (arXiv:1904.05068): Huber loss between the cosines of the angles of all triples of the batch; no labels."""

    kind: Literal["rkd_angle"]
    weight: Positive = 50.0
    """Factor in the sum of losses."""


class SimilarityTerm(Section):
    """Similarity-preserving (arXiv:1907.09682): squared difference of the row-normalised Gram matrices; no labels."""

    kind: Literal["similarity"]
    weight: Positive = 100.0
    """Factor in the sum of losses."""


class CentresTerm(Section):
    """AdaDistill (arXiv:2407.01332): ArcFace over class centres that follow the teacher; needs labels."""

    kind: Literal["class_centres"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    scale: Positive = 64.0
    """s."""
    margin: NotNegative = 0.45
    """m, the angle added to that of the own class."""


class LogitsTerm(Section):
    """T^2 KL(p_T || p_S) of class scores (arXiv:1503.02531); needs labels.

    Of the teacher's `logits` and the student's scores without margin; for a teacher without them, of the cosines of
    both to running means of the teacher's embeddings per class.
    """

    kind: Literal["logits"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    temperature: Positive = 4.0
    """T."""
    scale: Positive = 32.0
    """Factor of cosines to class means; not used for a teacher with `logits`."""


class FeaturesTerm(Section):
    """Relative squared difference of feature maps behind a 1x1 connector (FitNets, arXiv:1412.6550); no labels."""

    kind: Literal["features"]
    weight: Positive = 1.0
    """Factor in the sum of losses."""
    layers: Annotated[dict[str, str], Field(min_length=1)]
    """Module of the student -> module of the teacher, by the names that `rtool inspect` and `model.py` show."""
    teacher: Annotated[int, Field(ge=0)] = 0
    """Number of the teacher, which runs in torch."""


DistilTerm = Annotated[
    CosineTerm | DistanceTerm | AngleTerm | SimilarityTerm | CentresTerm | LogitsTerm | FeaturesTerm,
    Field(discriminator="kind"),
]


class DistilConfig(Section):
    """What the student learns from teachers; the terms are added to `losses`, of which there may be none then."""

    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)]
    """The teachers; a text alone is a reference."""
    terms: Annotated[tuple[DistilTerm, ...], Field(min_length=1)] = (
        CosineTerm(kind="cosine"),
        DistanceTerm(kind="rkd_distance"),
    )
    """Terms that compare student and teachers, each over all teachers that it can use."""
    labels: bool = True
    """false: the labels of data.train are not used, and it may be any folder of images."""
    unlabelled: TrainingSources | None = None
    """More images, without labels, for the terms that need none; sources as in data.train, or folders of images."""
    unlabelled_batch: Count = 32
    """Images of `unlabelled` in each batch, beside those of data.batch."""
    cache: FilePath | None = None
    """Folder where embeddings of teachers are kept by the pixels that gave them; for views that come again: no random
    change but augment.flip."""

    @field_validator("teachers", mode="before")
    @classmethod
    def _names_are_teachers(cls, value: Any) -> Any:
        named = [value] if isinstance(value, str | dict) else value
        if not isinstance(named, list | tuple):
            return value
        return tuple({"reference": each} if isinstance(each, str) else each for each in named)

    @model_validator(mode="after")
    def _terms_can_be_computed(self) -> DistilConfig:
        """Refuse terms that these teachers or missing labels leave without a meaning."""
        labelled = [term.kind for term in self.terms if isinstance(term, CentresTerm | LogitsTerm)]
        if labelled and not self.labels:
            raise ValueError(f"terms: {labelled[0]} needs labels, and labels is false; use cosine and rkd_distance")
        kinds = [term.kind for term in self.terms if not isinstance(term, FeaturesTerm)]
        twice = next((kind for number, kind in enumerate(kinds) if kind in kinds[:number]), None)
        if twice is not None:
            raise ValueError(f"terms: {twice} is given twice; one term covers all teachers, weight is its factor")
        for term in self.terms:
            if isinstance(term, FeaturesTerm) and term.teacher >= len(self.teachers):
                raise ValueError(f"terms: features of teacher {term.teacher}; there are {len(self.teachers)}, from 0")
        return self
