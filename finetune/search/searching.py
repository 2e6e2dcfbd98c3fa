"""A search in its run: alpha beside the weights, epoch by epoch, and at the end the cell that is called found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...converters.zoo.cells.genotype import Genotype
from ...converters.zoo.cells.parsing import genotype_weights
from ..config.config import FinetuneConfig
from ..config.search import SearchConfig
from ..data.loading import Batch, TrainingPixels
from ..data.selection.halves import held_out_identities, training_halves
from ..network.learner import Learner
from ..network.networks import Network
from ..network.search_backbone import EdgeWeights, SearchBackbone, open_latency_table
from ..runs.alongside import Place
from ..runs.run_folder import RunFolder
from ..training.prepared_data import PreparedData
from ..training.stepping import Stepper
from .alternating import AlphaSteps
from .cells import cell_of
from .costs import latency_penalty
from .perturbation import choose_by_perturbation
from .recording import SearchFolder
from .sharpness import MOST_SKIPS, grown_too_sharp

__all__ = ["Searching", "undecided_from"]

_UNDECIDED = 0.8
"""Share of the largest entropy from which on alpha has decided nothing."""
_BACK = 5
"""Epochs back from an eigenvalue that has grown too large, to the cell before it."""


class Searching:
    """Alpha beside the weights of one run, as the training loop calls it."""

    def __init__(
        self,
        config: FinetuneConfig,
        search: SearchConfig,
        network: Network,
        data: PreparedData,
        folder: RunFolder | None,
        device: torch.device,
    ) -> None:
        """Split the training images.

        Raises:
            ConfigError: the latency table is of another space.
            DataError: an identity has one image.
        """
        self.all_images: TrainingPixels = data.train
        """The images of weights and alpha together."""
        self._table = open_latency_table(search, network.preprocessing)
        if search.shortlist > 1:
            held_out_identities(data.train.dataset, search.shortlist_holdout, config.seed)  # too few are refused now
        weights, self._images = training_halves(data.train, search.split, config.seed)
        self.data = replace(data, train=weights)
        """The data of the run, its training images those of the weights."""
        self._config, self._search, self._network, self._device = config, search, network, device
        self._folder = None if folder is None else SearchFolder(folder)
        self._log: Callable[[str], object] = (lambda _: None) if folder is None else folder.log
        self._eigenvalues: list[float] = []
        self._stopped_at = -1
        self._place = Place(0, 0, 1, config.epochs)
        self._steps: AlphaSteps | None = None

    def beside(self, learner: Learner, stepper: Stepper) -> Searching:
        """Itself, with the learner whose weights it moves beside."""
        self._steps = AlphaSteps(
            self._config,
            self._search,
            learner,
            stepper,
            self._images,
            self._network.preprocessing,
            self._device,
            None if self._table is None or self._search.cost.weight == 0 else self._penalty,
        )
        return self

    def _penalty(self, normal: Tensor, reduce: Tensor) -> Tensor:
        cost, table = self._search.cost, self._table
        assert table is not None
        assert cost.target_ms is not None
        return latency_penalty(table.expected_ms(normal, reduce), cost.target_ms, cost.weight)

    def before_step(self, place: Place, rate: float, group: list[Batch]) -> None:
        """Move alpha, and set the weights of the edges."""
        self._place = place
        self._own.step(place, rate, group)

    def end_epoch(self, epoch: int, step: int) -> None:
        """Compare the alphas of all processes, decide whether to go on, and write the epoch down."""
        own = self._own
        own.alphas.remember()
        own.alphas.check_alike(self._device)
        own.unreadable.share(self._device, self._log)
        shares = self._shares()
        cell = cell_of(self._search, shares, most_skips=self._search.most_skips)
        skips = cell_of(self._search, shares).skips["normal"]
        if self._search.stop == "eigenvalue" and self._place.done >= self._search.warmup:
            self._eigenvalues.append(own.eigenvalue(self._place))
        self._decide(epoch, skips)
        if self._folder is None:
            return
        numbers: dict[str, object] = {"entropy": own.alphas.entropy, "skips": cell.skips, "all_skips": skips}
        if self._eigenvalues:
            numbers["eigenvalue"] = self._eigenvalues[-1]
        if self._table is not None:
            numbers["expected_ms"] = float(self._table.expected_ms(*own.alphas.operation_shares()))
            numbers["cell_ms"] = self._table.predicted_ms(cell)
        if own.skipped:
            numbers["skipped_alpha_steps"] = own.skipped
        normal, reduce = (each.astype(np.float32) for each in shares)
        self._folder.write_epoch(epoch, step, cell, own.alphas.history, (normal, reduce), numbers)
        most = math.log(len(self._search.operations))
        self._log(
            f"search epoch {epoch + 1}: entropy {own.alphas.entropy:.3f} of {most:.3f}, "
            f"{skips} skips in the normal cell"
        )

    def measured(
        self, values: Mapping[str, Any], metric: str, measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The metric of the supernet with only the chosen operations, and what that loses."""
        if values[metric] is None:
            return {}
        cell = cell_of(self._search, self._shares(), most_skips=self._search.most_skips)
        with self._backbone.using(weights_of(cell)):
            discrete = measure()[metric]
        return {} if discrete is None else {"discretised": discrete, "gap": values[metric] - discrete}

    @property
    def ends(self) -> bool:
        """Whether the search ended early."""
        return self._stopped_at >= 0

    def state(self) -> dict[str, Tensor]:
        """Alpha and what the end of the search depends on."""
        numbers = torch.tensor([float(self._stopped_at), *self._eigenvalues], dtype=torch.float64)
        return {**self._own.state(), "search/stopping": numbers}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `state`."""
        stopped, *self._eigenvalues = tensors["search/stopping"].tolist()
        self._stopped_at = int(stopped)
        self._own.load(tensors)

    @property
    def found_epoch(self) -> int:
        """The epoch, from 0, whose alphas say the cell: the last one, or the one before the search went wrong."""
        return self._stopped_at if self.ends else len(self._own.alphas.history) - 1

    def found_shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The weights of operations that say the cell."""
        normal, reduce = (each.double().numpy() for each in self._own.alphas.past(self.found_epoch))
        return normal, reduce

    def perturbed(self, asked: list[str]) -> Genotype:
        """The cell by `choose: perturbation`, once the epochs are done; see `choose_by_perturbation`."""
        return choose_by_perturbation(
            self._config,
            self._search,
            self._own,
            self.data.train,
            self._network.preprocessing,
            self._device,
            self.found_shares(),
            asked,
            self._log,
        )

    @property
    def entropy(self) -> float:
        """Mean entropy of the operations' shares at the end."""
        return self._own.alphas.entropy

    @property
    def _own(self) -> AlphaSteps:
        assert self._steps is not None, "beside() was not called"
        return self._steps

    @property
    def _backbone(self) -> SearchBackbone:
        backbone = self._network.module
        assert isinstance(backbone, SearchBackbone)
        return backbone

    def _shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        normal, reduce = (each.cpu().double().numpy() for each in self._own.alphas.shares())
        return normal, reduce

    def _decide(self, epoch: int, skips: int) -> None:
        """End the search where its cell degenerates; the same on all processes, whose alphas are equal."""
        if self._search.stop == "skips" and skips > MOST_SKIPS:
            self._stopped_at = max(0, epoch - 1)
            self._log(f"search ends: {skips} skips in the normal cell, more than {MOST_SKIPS}; the epoch before counts")
        if self._search.stop == "eigenvalue" and grown_too_sharp(self._eigenvalues):
            self._stopped_at = max(0, epoch - _BACK)
            self._log(f"search ends: its largest eigenvalue has grown; the cell of {_BACK} epochs before counts")


def weights_of(cell: Genotype) -> EdgeWeights:
    """Weights of 1 at the edges of a cell, by which a supernet computes as that cell."""
    normal, reduce = (torch.from_numpy(each) for each in genotype_weights(cell))
    return EdgeWeights(normal, reduce)


def undecided_from(operations: int) -> float:
    """The entropy from which on alpha has decided nothing: 0.8 of that of equal shares."""
    return _UNDECIDED * math.log(operations)
