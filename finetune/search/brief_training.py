"""One cell trained for some steps as a network of its own, and measured on people it was not trained on.

The people are training identities that are held out for this; those of the evaluation are never looked at. Everything
else is as in a run: losses, batches, augmentation, optimizer, and the schedule over the steps of this training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...converters.records.preprocessing import Preprocessing
from ...converters.zoo.cells.genotype import Genotype
from ...converters.zoo.registry import build_architecture
from ...errors import GateError
from ..config.config import EvaluationConfig, FinetuneConfig
from ..config.search import SearchConfig
from ..data.decoding import Pixels
from ..data.loading import Batch, TrainingPixels, iterate_batches
from ..data.selection.halves import chosen_pixels, held_out_identities
from ..evaluation.several_sets import choose_metric
from ..network.networks import Network
from ..processes.collectives import all_reduce_sum, barrier, rank, world_size
from ..training.assembly import assemble_learner
from ..training.epoch import epoch_samples, epoch_steps, rank_share
from ..training.generators import generator_states, load_generator_states, seed_generators
from ..training.measuring.held_out import HeldOutImages, MeasuredSets, embedder_of, plan_sets
from ..training.schedules import learning_rate_factor
from ..training.stepping import Stepper

__all__ = ["BriefTraining", "RankingData", "StoppedError", "ranking_data"]


class StoppedError(Exception):
    """A signal asked the run to stop, in the middle of a cell."""


@dataclass(frozen=True)
class RankingData:
    """The people that cells are trained on, and the other training identities that they are ranked on."""

    train: TrainingPixels
    sets: MeasuredSets
    metric: str


def ranking_data(config: FinetuneConfig, search: SearchConfig, pixels: TrainingPixels) -> RankingData:
    """Hold out training identities, `search.shortlist_holdout` of them.

    Raises:
        DataError: either part has fewer than two identities, or the held-out ones cannot be measured.
    """
    dataset = pixels.dataset
    is_held = held_out_identities(dataset, search.shortlist_holdout, config.seed)
    train = chosen_pixels(pixels, np.flatnonzero(~is_held), f"{dataset.name} (trained by the shortlist)")
    ranked = chosen_pixels(pixels, np.flatnonzero(is_held), f"{dataset.name} (ranking the shortlist)")
    values = None if ranked.values is None else Pixels(ranked.dataset, ranked.values, ())
    evaluation = config.evaluation or EvaluationConfig()
    if evaluation.protocol == "classification" or evaluation.function is not None:
        # People that no cell was trained on have no class; they can be told apart.
        evaluation = evaluation.model_copy(update={"protocol": None, "function": None, "metric": None})
    elif config.data.evaluate is not None:
        evaluation = evaluation.model_copy(update={"metric": None})  # it may be of one of several sets
    plans = plan_sets(evaluation, {"": ranked.dataset})
    sets = MeasuredSets(evaluation, {"": HeldOutImages(ranked.dataset, ranked.resize, values)}, plans)
    return RankingData(train, sets, choose_metric(plans, evaluation.metric))


class BriefTraining:
    """A cell with fresh weights of its own seed, trained in one or more stretches."""

    def __init__(
        self,
        config: FinetuneConfig,
        genotype: Genotype,
        data: RankingData,
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        steps: int,
        seed: int,
    ) -> None:
        """Build the network and its optimizer.

        Args:
            config: The run of the search.
            genotype: The cell.
            data: What it is trained and ranked on.
            preprocessing: Of the images.
            device: Where it computes.
            steps: Of the whole training, over which the learning rate moves.
            seed: Of weights, order and augmentation.
        """
        self._steps, self._data, self._device = steps, data, device
        self.config = config.model_copy(update={"search": None, "seed": seed, "steps_per_epoch": None})
        torch.manual_seed(seed)
        dimension = config.search.embedding_size if config.search is not None else 512
        module = build_architecture("searched", genotype=genotype.to_json(), embedding_size=dimension)
        self.network = Network("searched", module, preprocessing, dimension, _unsaved)
        identities = data.train.dataset.identity_count
        self._learner, _ = assemble_learner(self.config, self.network, identities, device)
        self._stepper = Stepper(self.config, self._learner, preprocessing, device)
        seed_generators(seed)
        self.done = 0
        """Steps so far."""

    def train(self, until: int, stops: Callable[[], bool] = lambda: False) -> None:
        """Train until step `until` of the whole training.

        Raises:
            StoppedError: `stops` said so on any process; what was trained of this stretch is lost.
            GateError: most steps had no finite gradient.
        """
        self._stepper.begin_epoch(0)
        accumulate, lost, first = self.config.optimizer.accumulate, 0, self.done
        batches = self._batches(self.done * accumulate)
        while self.done < until:
            group = [next(batches) for _ in range(accumulate)]
            rate = learning_rate_factor(self.config.schedule, self.done, *self._epochs)
            _, finite = self._stepper.step(group, rate, stop=stops())
            self.done += 1
            lost += not finite
            if self._stepper.stop_asked:
                raise StoppedError
        if 2 * lost > until - first:
            raise GateError(
                f"search.shortlist: {lost} of {until - first} steps of a cell had no finite gradient "
                f"({self._stepper.not_finite}); lower optimizer.lr, or set optimizer.clip"
            )

    def measure(self) -> float:
        """The metric of the people that cells are ranked on, on all processes. A collective."""
        value = torch.zeros((), dtype=torch.float64)
        if rank() == 0:
            self._learner.eval()
            backbone = self._learner.backbone
            embed = embedder_of(backbone, self.network, self.config.model, self._device)
            value += float(self._data.sets.measure(embed, lambda _: None)[self._data.metric])
        barrier()
        return float(all_reduce_sum(value.to(torch.float32).to(self._device)))

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on. A collective."""
        backbone = {f"cell/{name}": value for name, value in self._learner.backbone.state_dict().items()}
        own = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.items()}
        steps = {"done": torch.tensor(self.done)}
        return {**self._stepper.state(), **own, **steps, **generator_states(self._device)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state`."""
        start = "cell/"
        self._learner.backbone.load_state_dict(
            {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        )
        self._stepper.load({name: value for name, value in tensors.items() if not name.startswith(start)})
        load_generator_states(tensors, self._device)
        self.done = int(tensors["done"])

    @property
    def backbone(self) -> torch.nn.Module:
        """The network with its present weights."""
        return self._learner.backbone

    @property
    def _epochs(self) -> tuple[int, int]:
        """Steps per epoch and epochs, as the schedule counts them: warm-up is a share of a real epoch."""
        rows = len(epoch_steps(self.config, self._data.train.dataset, ranks=world_size(), epoch=0))
        per_epoch = max(1, rows // self.config.optimizer.accumulate)
        return min(per_epoch, self._steps), max(1, -(-self._steps // per_epoch))

    def _batches(self, first: int) -> Iterator[Batch]:
        """Batches of this process, epoch after epoch, from batch `first` of the whole training on."""
        epoch = 0
        while True:
            plan = epoch_steps(self.config, self._data.train.dataset, ranks=world_size(), epoch=epoch)
            if first < len(plan):
                samples = epoch_samples(self.config, self._data.train, self.network.preprocessing, epoch=epoch)
                columns = rank_share(self.config, plan, rank(), world_size())
                workers, pin = self.config.data.workers, self._device.type == "cuda"
                yield from iterate_batches(samples, plan, columns, workers, first=first, pin=pin)
            first = max(0, first - len(plan))
            epoch += 1


def _unsaved(*_: Any) -> None:
    raise NotImplementedError("a cell of a shortlist is not saved by itself")
