"""What moves beside the weights in a run, such as the alpha of a search: the calls that the training loop makes to it.

Each call is a collective: every rank makes it at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..data.loading import Batch

__all__ = ["Alongside", "Place"]


@dataclass(frozen=True)
class Place:
    """Where a run is."""

    epoch: int
    step: int
    """Steps of this epoch that are done."""
    steps_per_epoch: int
    epochs: int

    @property
    def number(self) -> int:
        """Steps that are done in all, by the present plan."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def done(self) -> float:
        """Share of the run's steps that are done, 0..1."""
        return self.number / (self.epochs * self.steps_per_epoch)


class Alongside(Protocol):
    """Something that moves beside the weights."""

    def before_step(self, place: Place, rate: float, group: list[Batch]) -> None:
        """Move before the weights do.

        Args:
            place: The step that comes.
            rate: Factor of the peak learning rates in it.
            group: The batches that it will train on.
        """

    def end_epoch(self, epoch: int, step: int) -> None:
        """Write down what an epoch, from 0, ended with; before the run is evaluated and saved.

        Args:
            epoch: The epoch.
            step: Optimizer steps of the run so far.
        """

    def measured(
        self, values: Mapping[str, Any], metric: str, measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What else an evaluation states, on rank 0.

        Args:
            values: What was measured.
            metric: The name of what chooses the best checkpoint.
            measure: Measures again, with whatever was changed meanwhile.
        """

    @property
    def ends(self) -> bool:
        """Whether the run shall end now."""

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, under names of its own."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""
