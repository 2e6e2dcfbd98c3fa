"""Alpha beside the weights: before each step of the weights, one step of alpha on images of its own.

Both sets of images are laid out, augmented and fed to the losses alike. In each pass of a step the weights of the edges
follow from alpha and from draws that seed and number of the pass decide, so that all processes follow the same path and
a resumed search makes the same draws. BatchNorm statistics are those of the weights' images alone: passes for alpha put
them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...converters.records.preprocessing import Preprocessing
from ..config.config import FinetuneConfig
from ..config.search import SearchConfig
from ..data.loading import Batch, TrainingPixels
from ..data.unreadable_images import UnreadableImages
from ..network.learner import Learner
from ..network.search_backbone import EdgeWeights, SearchBackbone
from ..runs.alongside import Place
from ..training.epoch import image_rounds
from ..training.stepping import Stepper
from .alphas import Alphas, mean_over_ranks
from .bilevel import first_order, second_order, sgd_step, statistics_restored
from .mixing import auxiliary_factor, draw, edge_weights, guard_penalty, operation_shares, settled
from .sharpness import largest_eigenvalue

__all__ = ["AlphaSteps", "Penalty"]

Penalty = Callable[[Tensor, Tensor], Tensor]
"""What a cell's expected cost adds to the loss of alpha, of the shares of normal and reduction cells."""

_OTHER_SEED = 0x5EA
"""Images of alpha are drawn and augmented by another seed than those of the weights."""


class AlphaSteps:
    """Moves alpha in one run, on one process."""

    def __init__(
        self,
        config: FinetuneConfig,
        search: SearchConfig,
        learner: Learner,
        stepper: Stepper,
        images: TrainingPixels,
        preprocessing: Preprocessing,
        device: torch.device,
        penalty: Penalty | None = None,
    ) -> None:
        backbone = learner.backbone
        assert isinstance(backbone, SearchBackbone)
        self._backbone, self._learner, self._stepper = backbone, learner, stepper
        self._config = config.model_copy(update={"seed": (config.seed ^ _OTHER_SEED) % 2**32})
        self._search, self._images, self._preprocessing, self._device = search, images, preprocessing, device
        self._penalty, self._seed = penalty, config.seed
        self._shape = (search.space().edges, len(search.operations))
        self._weights = [weight for weight in learner.parameters() if weight.requires_grad]
        self._batches: tuple[int, int, Iterator[Batch]] | None = None
        self.alphas = Alphas(search, config.seed, device)
        self.unreadable = UnreadableImages(images.dataset)
        self.skipped = 0
        """Steps of alpha since the start of this process whose gradient was not finite, so that it did not move."""
        self.settle(0.0)

    def step(self, place: Place, rate: float, group: Sequence[Batch]) -> None:
        """Move alpha, after the warm-up, and set the weights of the edges for the step of the weights that comes."""
        if place.done >= self._search.warmup:
            batch = self._batch(place)
            self.unreadable.note([batch])
            with statistics_restored(self._learner):
                if not self.alphas.update(self._gradient(place, rate, group[0], batch)):
                    self.skipped += 1
        self._backbone.of_step = self._drawn(2 * place.number, place.done, detached=True)
        self.settle(place.done)

    def settle(self, done: float) -> None:
        """Set the weights of evaluation: what alpha gives without draws; of sampled paths the likeliest operations."""
        self._done = done
        normal, reduce = (settled(alpha.detach(), self._search) for alpha in self.alphas.values)
        self._backbone.settled = EdgeWeights(normal, reduce, auxiliary_factor(self._search, done))

    def eigenvalue(self, place: Place) -> float:
        """The largest eigenvalue of the Hessian of alpha's loss, on the first batch of an epoch. A collective."""
        batch = next(self._epoch_batches(place, 0))
        number = 2 * place.number + 1

        def gradient() -> list[Tensor]:
            with self._alike():
                return first_order(self.alphas.values, lambda: self._loss(batch, number, place.done), mean_over_ranks)

        with statistics_restored(self._learner):
            return largest_eigenvalue(self.alphas.values, gradient)

    def images_of_alpha(self, epoch: int, count: int) -> list[Batch]:
        """The first batches of alpha's images in an epoch."""
        return list(
            image_rounds(self._config, self._images, self._preprocessing, self._device, epoch=epoch, steps=count)
        )

    @torch.no_grad()
    def loss_with(self, weights: EdgeWeights, batches: Sequence[Batch]) -> float:
        """The mean objective of batches with given weights of the edges; nothing is changed. A collective."""
        self._backbone.of_step = weights
        with statistics_restored(self._learner), self._alike():
            total = torch.stack([self._stepper.objective(batch) for batch in batches]).mean()
        return float(mean_over_ranks([total])[0])

    def tune_with(self, weights: EdgeWeights, batch: Batch, rate: float, *, stop: bool) -> tuple[bool, bool]:
        """A step of the supernet's weights with given weights of the edges. A collective.

        Args:
            weights: Of the edges.
            batch: Images of the weights.
            rate: Factor of the peak learning rates.
            stop: Whether this process was asked to stop.

        Returns:
            Whether the gradient was finite, and whether any process was asked to stop.
        """
        self._backbone.of_step = weights
        _, finite = self._stepper.step([batch], rate, stop=stop)
        return finite, self._stepper.stop_asked

    def state(self) -> dict[str, Tensor]:
        """What a later step depends on, beside the weights."""
        return {**self.alphas.state(), "search/done": torch.tensor(self._done, dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state`."""
        self.alphas.load(tensors)
        self._batches = None
        self.settle(float(tensors["search/done"]))

    def _gradient(self, place: Place, rate: float, training: Batch, own: Batch) -> list[Tensor]:
        def validation() -> Tensor:
            return self._loss(own, 2 * place.number + 1, place.done)

        if self._search.order == 1:
            return first_order(self.alphas.values, validation, mean_over_ranks)
        return second_order(
            self.alphas.values,
            self._weights,
            lambda: self._objective(training, 2 * place.number, place.done),
            validation,
            sgd_step(self._stepper.optimizer, self._weights, rate),
            average=mean_over_ranks,
            alike=self._alike,
        )

    def _loss(self, batch: Batch, number: int, done: float) -> Tensor:
        """The loss of alpha: the objective on its images, what the guard adds and what the cost adds."""
        loss = self._objective(batch, number, done)
        guard = guard_penalty(tuple(self.alphas.values), self._search, done)
        if guard is not None:
            loss = loss + guard
        if self._penalty is not None:
            normal, reduce = (operation_shares(each, self._search) for each in self.alphas.values)
            loss = loss + self._penalty(normal, reduce)
        return loss

    def _objective(self, batch: Batch, number: int, done: float) -> Tensor:
        """What the weights minimise, on a batch, differentiable in alpha."""
        self._backbone.of_step = self._drawn(number, done, detached=False)
        return self._stepper.objective(batch)

    def _drawn(self, number: int, done: float, *, detached: bool) -> EdgeWeights:
        """The weights of pass `number`."""
        drawn = draw(self._search, self._shape, self._seed, number)
        normal, reduce = (
            edge_weights(alpha.detach() if detached else alpha, noise, self._search, done)
            for alpha, noise in zip(self.alphas.values, (drawn.normal, drawn.reduce), strict=True)
        )
        return EdgeWeights(normal, reduce, auxiliary_factor(self._search, done))

    @contextmanager
    def _alike(self) -> Iterator[None]:
        """Within the context the network draws as it would have, and afterwards as if it had not; in float32.

        The passes of a difference must draw alike, and what bfloat16 rounds off is larger than what they differ by.
        """
        autocast, self._learner.autocast = self._learner.autocast, None
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            self._learner.autocast = autocast

    def _batch(self, place: Place) -> Batch:
        """Alpha's batch of a step; batches are made in order, from the first one that is asked for."""
        if self._batches is None or self._batches[:2] != (place.epoch, place.step):
            self._batches = (place.epoch, place.step, self._epoch_batches(place, place.step))
        epoch, step, batches = self._batches
        batch = next(batches)
        self._batches = (epoch, step + 1, batches)
        return batch

    def _epoch_batches(self, place: Place, first: int) -> Iterator[Batch]:
        """The batches of this process on alpha's images in an epoch, from step `first` on."""
        return image_rounds(
            self._config,
            self._images,
            self._preprocessing,
            self._device,
            epoch=place.epoch,
            steps=place.steps_per_epoch,
            first=first,
        )
