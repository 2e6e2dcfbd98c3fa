"""The terms of `distil` as one module: `Distiller` owns projections, connectors and class centres.

It trains beside the heads and is saved with them in a checkpoint's training state; a bundle or an export of the student
never holds it. Losses are computed in float32. Terms over relations see the batch of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.distillation import (
    AngleTerm,
    CentresTerm,
    CosineTerm,
    DistanceTerm,
    DistilConfig,
    DistilTerm,
    FeaturesTerm,
    LogitsTerm,
    SimilarityTerm,
)
from ..losses.margin_losses import cosine_logits, margin_logits
from ..processes.collectives import all_reduce_sum, gather_rows, world_size
from .losses import (
    cosine_loss,
    moved_centres,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_loss,
    softened_divergence,
)
from .teacher_outputs import FeatureTap, TeacherOutputs

__all__ = ["ClassCentres", "ClassMeans", "Connector", "Distiller"]

_RELATIONS = {"rkd_distance": rkd_distance_loss, "rkd_angle": rkd_angle_loss, "similarity": similarity_loss}


class ClassCentres(nn.Module):
    """AdaDistill: ArcFace of the student over unit centres [C, D] that follow the teacher, see `moved_centres`."""

    centres: Tensor

    def __init__(self, dimension: int, classes: int, term: CentresTerm) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(classes, dimension))
        self._scale, self._margin = term.scale, term.margin

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of student and teacher [N, D] with int64 labels [N]; the centres move first, in training."""
        if self.training:
            rows = [gather_rows(F.normalize(each.detach())) for each in (student, teacher)]
            self.centres.copy_(moved_centres(self.centres, rows[0], rows[1], gather_rows(labels)))
        logits = margin_logits(cosine_logits(student, self.centres), labels, scale=self._scale, m2=self._margin, m3=0.0)
        return F.cross_entropy(logits, labels)


class ClassMeans(nn.Module):
    """Softened divergence of cosines to the means of the teacher's unit embeddings per class, as far as seen."""

    sums: Tensor

    def __init__(self, dimension: int, classes: int, term: LogitsTerm) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(classes, dimension))
        self._scale, self._temperature = term.scale, term.temperature

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of student and teacher [N, D] with int64 labels [N]; the means move first, in training."""
        if self.training:
            self.sums.index_add_(0, gather_rows(labels), gather_rows(F.normalize(teacher)))
        unseen = (self.sums == 0).all(1)
        logits = [
            (self._scale * cosine_logits(each, self.sums)).masked_fill(unseen, -torch.inf)
            for each in (student, teacher)
        ]
        return softened_divergence(logits[0], logits[1], self._temperature)


class Connector(nn.Module):
    """A 1x1 convolution from the student's channels to the teacher's, and the relative squared difference behind it.

    Maps of another height or width are averaged to the smaller of both. Maps [N, C] are taken as [N, C, 1, 1].
    """

    def __init__(self, channels: int, wanted: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, wanted, 1, bias=False)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """mean((W s - t)^2) / mean(t^2) over the batch of all ranks: a float32 scalar."""
        student, teacher = _as_map(student), _as_map(teacher)
        size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
        power = all_reduce_sum(teacher.square().mean()) / world_size()
        loss: Tensor = (self.convolution(student) - teacher).square().mean() / power.clamp(min=1e-12)
        return loss


class Distiller(nn.Module):
    """All terms: `forward(embeddings, labels, outputs)` gives the unweighted ones, float32 [K].

    Each is the mean over the teachers that it applies to, by their weights.
    """

    def __init__(
        self,
        config: DistilConfig,
        dimension: int,
        classes: int,
        examples: Sequence[TeacherOutputs],
        tap: FeatureTap | None,
        maps: dict[str, Tensor],
        scores: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Modules with fresh weights from torch's global generator.

        Args:
            config: The section.
            dimension: D of the student's embedding.
            classes: Training identities.
            examples: What each teacher gives for a few images, for the sizes.
            tap: The student's feature maps, where a term needs some.
            maps: Feature maps of the student for a few images, for the sizes.
            scores: The student's class scores without margin [N, C] of embeddings [N, D], for teachers with logits.
        """
        super().__init__()
        self._config, self._tap, self._scores = config, tap, scores
        sizes = [each.embeddings.shape[1] for each in examples]
        self.projections = nn.ModuleList(
            nn.Linear(dimension, size, bias=False)
            if size != dimension and _projects(config, example)
            else nn.Identity()
            for size, example in zip(sizes, examples, strict=True)
        )
        self.states = nn.ModuleList(
            _state_of(term, number, example, classes, maps)
            for term in config.terms
            for number, example in enumerate(examples)
        )

    def watching(self) -> AbstractContextManager[None]:
        """The context in which the student computes, so that its feature maps are kept."""
        return nullcontext() if self._tap is None else self._tap.watching()

    def forward(self, embeddings: Tensor, labels: Tensor, outputs: Sequence[TeacherOutputs]) -> Tensor:
        """Losses [K] of student embeddings [N, D] with int64 labels [n]; only the first n images have labels."""
        embeddings = embeddings.float()
        maps = {} if self._tap is None else self._tap.taken()
        projected = [projection(embeddings) for projection in self.projections]
        losses = []
        for number, term in enumerate(self._config.terms):
            teachers = [term.teacher] if isinstance(term, FeaturesTerm) else range(len(outputs))
            weights = [self._config.teachers[teacher].weight for teacher in teachers]
            states = self.states[number * len(outputs) :]
            values = [
                self._value(term, states[t], embeddings, projected[t], labels, outputs[t], maps) for t in teachers
            ]
            total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
            losses.append(total / sum(weights))
        return torch.stack(losses)

    def _value(
        self,
        term: DistilTerm,
        state: nn.Module,
        embeddings: Tensor,
        projected: Tensor,
        labels: Tensor,
        output: TeacherOutputs,
        maps: dict[str, Tensor],
    ) -> Tensor:
        """One term with one teacher."""
        known = len(labels)
        match term:
            case CosineTerm():
                return cosine_loss(projected, output.embeddings)
            case DistanceTerm() | AngleTerm() | SimilarityTerm():
                return _RELATIONS[term.kind](gather_rows(embeddings), gather_rows(output.embeddings))
            case LogitsTerm() if output.logits is not None:
                scores = cast("Callable[[Tensor], Tensor]", self._scores)(embeddings[:known])
                return softened_divergence(scores, output.logits[:known], term.temperature)
            case CentresTerm() | LogitsTerm():
                loss: Tensor = state(projected[:known], output.embeddings[:known], labels)
                return loss
            case FeaturesTerm():
                connectors = cast("nn.ModuleList", state)
                pairs = zip(connectors, term.layers.items(), strict=True)
                return torch.stack([each(maps[own], output.maps[name]) for each, (own, name) in pairs]).mean()


def _projects(config: DistilConfig, example: TeacherOutputs) -> bool:
    """Whether a term compares the student's vector with that of this teacher."""
    return any(
        isinstance(term, CosineTerm | CentresTerm) or (isinstance(term, LogitsTerm) and example.logits is None)
        for term in config.terms
    )


def _as_map(values: Tensor) -> Tensor:
    """[N, C], [N, C, L] or [N, C, H, W] as float32 [N, C, H, W]."""
    return values.float().reshape(*values.shape, *[1] * (4 - values.ndim))


def _state_of(
    term: DistilTerm, teacher: int, example: TeacherOutputs, classes: int, maps: dict[str, Tensor]
) -> nn.Module:
    """What a term keeps for the teacher of this number."""
    size = example.embeddings.shape[1]
    match term:
        case CentresTerm():
            return ClassCentres(size, classes, term)
        case LogitsTerm() if example.logits is None:
            return ClassMeans(size, classes, term)
        case FeaturesTerm() if term.teacher == teacher:
            pairs = [(maps[own].shape[1], example.maps[name].shape[1]) for own, name in term.layers.items()]
            return nn.ModuleList(Connector(channels, wanted) for channels, wanted in pairs)
    return nn.Identity()
