"""All teachers of a run: opened, given their views of each batch, and described for log and plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...converters.records.preprocessing import Preprocessing
from ...errors import InputError
from ..config.augmentation import AugmentConfig
from ..config.distillation import EMA, DistilConfig, FeaturesTerm
from ..data.augment.views import lay_out_views
from ..data.loading import Batch
from .kept_embeddings import KeptTeacher, kept
from .teacher_outputs import TeacherOutputs
from .teachers import AverageTeacher, RunnerTeacher, Teacher, TorchTeacher, black_images, open_teacher

__all__ = ["TeacherFacts", "Teachers", "open_teachers"]

Opened = TorchTeacher | RunnerTeacher | KeptTeacher


@dataclass(frozen=True)
class TeacherFacts:
    """One teacher, for the log and the plan."""

    name: str
    embedding: int
    """Length of its embedding."""
    preprocessing: str
    """Size, channels, mean, deviation and where they come from."""
    runs_in: str

    def __str__(self) -> str:
        return f"{self.name}: {self.embedding}-d embedding, in {self.runs_in}; preprocessing: {self.preprocessing}"


class Teachers:
    """The teachers of `distil.teachers` in their order; made by `open_teachers`."""

    def __init__(self, config: DistilConfig, opened: Sequence[Opened | None], student: Preprocessing) -> None:
        """`opened` has None in the place of `ema`, which `follow` fills."""
        self._config, self._opened, self._student = config, opened, student
        seen = [student if each is None else each.decision.preprocessing for each in opened]
        self.views, self._numbers = lay_out_views(student, seen)
        self._average: AverageTeacher | None = None

    def follow(self, backbone: nn.Module, average: dict[str, Tensor], output: int) -> None:
        """Let `ema` be this average of the student, tensors by name that their owner moves."""
        if None in self._opened:
            self._average = AverageTeacher(backbone, average, self._student, output)

    def outputs(self, batch: Batch, device: torch.device) -> list[TeacherOutputs]:
        """What each teacher computes on a batch."""
        pixels = [batch.pixels, *batch.views]
        return [self._teacher(n).outputs(pixels[view].to(device)) for n, view in enumerate(self._numbers)]

    def examples(self, dimension: int, device: torch.device) -> list[TeacherOutputs]:
        """What each teacher gives for two black images, for the sizes; `ema` has the student's `dimension`."""
        return [
            TeacherOutputs(torch.zeros(2, dimension)) if each is None else _tried(each, device) for each in self._opened
        ]

    def describe(self, examples: Sequence[TeacherOutputs]) -> list[TeacherFacts]:
        """The teachers, with the sizes that `examples` found."""
        facts = []
        for config, teacher, example in zip(self._config.teachers, self._opened, examples, strict=True):
            size = example.embeddings.shape[1]
            if teacher is None:
                facts.append(TeacherFacts(EMA, size, "the student's", "torch"))
                continue
            where = "torch" if config.runtime == "torch" else "ONNX Runtime"
            served = config.reference.startswith("triton://")
            facts.append(TeacherFacts(teacher.name, size, str(teacher.decision), "Triton" if served else where))
        return facts

    def flush(self) -> None:
        """Write what caches do not have on disk yet."""
        for teacher in self._opened:
            if isinstance(teacher, KeptTeacher):
                teacher.flush()

    def _teacher(self, number: int) -> Teacher:
        found = self._opened[number] or self._average
        if found is None:
            raise RuntimeError("ema was asked before `follow` named the average")
        return found


def _tried(teacher: Opened, device: torch.device) -> TeacherOutputs:
    """What a teacher says of two black images.

    Raises:
        InputError: it is not finite.
    """
    said = teacher.outputs(black_images(teacher.decision.preprocessing).to(device))
    if not all(bool(each.isfinite().all()) for each in (said.embeddings, said.logits) if each is not None):
        raise InputError(
            f"distil.teachers: {teacher.name} gives NaN or infinity for a black image; nothing can be learned"
        )
    return said


def open_teachers(
    config: DistilConfig, augment: AugmentConfig, student: Preprocessing, device: torch.device
) -> Teachers:
    """Open all teachers but `ema`.

    Args:
        config: The teachers and terms.
        augment: The random changes of training images, which decide whether embeddings can be kept.
        student: The student's preprocessing.
        device: Where teachers compute that are not served.

    Raises:
        InputError, ConfigError: as `open_teacher`.
    """
    wanted: list[list[str]] = [[] for _ in config.teachers]
    for term in config.terms:
        if isinstance(term, FeaturesTerm):
            wanted[term.teacher] += term.layers.values()
    opened = [
        None
        if teacher.reference == EMA
        else kept(open_teacher(teacher, device, maps), config.cache, augment, bool(maps) or teacher.logits is not None)
        for teacher, maps in zip(config.teachers, wanted, strict=True)
    ]
    return Teachers(config, opened, student)
