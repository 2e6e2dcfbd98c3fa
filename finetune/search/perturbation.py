"""The cell whose operations and edges a supernet would miss most, instead of those that alpha says.

Wang et al., "Rethinking Architecture Selection in Differentiable NAS" (DARTS-PT), ICLR 2021, arXiv:2108.04392: edge by
edge, in random order, the operation is kept whose removal raises the loss most; the supernet is trained on between two
edges. Then node by node, in random order, the edges whose removal raises it most. A removed operation has the weight 0,
and the others keep theirs; `none` is never kept.

In a run, a loss is the mean over some batches of alpha's images and over all processes, so that these decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...converters.zoo.cells.genotype import Genotype
from ...converters.zoo.cells.parsing import parse_genotype
from ...errors import GateError, InputError
from ..config.config import FinetuneConfig
from ..config.search import SearchConfig
from ..data.loading import Batch, TrainingPixels, lost_workers_named
from ..network.search_backbone import EdgeWeights
from ..processes.interruption import on_stop_signal
from ..training.epoch import image_rounds
from .alternating import AlphaSteps
from .brief_training import StoppedError
from .cells import Shares

__all__ = ["choose_by_perturbation", "perturbed_cell"]

_LOSS_BATCHES = 2
"""Batches of alpha's images that each loss is the mean of; the same ones for all."""
_RATE = 0.1
"""Of the peak learning rate, between two decisions: the schedule of the run has ended."""

_Weights = tuple[NDArray[np.float64], NDArray[np.float64]]
Loss = Callable[[_Weights], float]
"""Weights of normal and reduction cells -> the loss on images that the weights did not learn from."""


def perturbed_cell(
    search: SearchConfig, shares: Shares, loss: Loss, tune: Callable[[_Weights], object], seed: int
) -> Genotype:
    """Decide all edges and nodes.

    Args:
        search: Its space, and `most_skips`.
        shares: Weights [edges, operations] of normal and reduction cells, as the search left them; not changed.
        loss: Is called with one operation or edge removed.
        tune: Trains the supernet with the given weights; is called after each decision.
        seed: Of the order.

    Raises:
        InputError: a loss is not finite; or fewer skips are asked for than the space allows.
    """
    choice = _Choice(search, (shares[0].copy(), shares[1].copy()), loss, tune)
    rng = np.random.default_rng([seed, 3])
    for number in rng.permutation(2 * search.space().edges):
        choice.decide_operation(*divmod(int(number), search.space().edges))
    for number in rng.permutation(2 * search.nodes):
        choice.decide_edges(*divmod(int(number), search.nodes))
    return parse_genotype(search.space(), *choice.strengths(), most_skips=search.most_skips)


@dataclass
class _Choice:
    """What is decided so far."""

    search: SearchConfig
    weights: _Weights
    loss: Loss
    tune: Callable[[_Weights], object]
    operation_costs: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)
    """Kind of cell and edge -> the loss without each operation; minus infinity for `none`."""
    edge_costs: dict[tuple[int, int], float] = field(default_factory=dict)
    """Kind of cell and edge -> the loss without the edge."""

    def decide_operation(self, kind: int, edge: int) -> None:
        row = self.weights[kind][edge]
        costs = np.full(len(row), -np.inf)
        for number, operation in enumerate(self.search.operations):
            if operation != "none":
                costs[number] = self._without(row, number)
        self.operation_costs[kind, edge] = costs
        row[:] = 0
        row[int(costs.argmax())] = 1
        self.tune(self.weights)

    def decide_edges(self, kind: int, node: int) -> None:
        edges = self.search.space().node_edges[node]
        for edge in edges:
            self.edge_costs[kind, edge] = self._without(self.weights[kind][edge], slice(None))
        by_cost = sorted(edges, key=lambda edge: -self.edge_costs[kind, edge])
        for edge in by_cost[self.search.inputs_per_node :]:
            self.weights[kind][edge] = 0
        self.tune(self.weights)

    def _without(self, row: NDArray[np.float64], removed: int | slice) -> float:
        before = row.copy()
        row[removed] = 0
        loss = self.loss(self.weights)
        row[:] = before
        if not np.isfinite(loss):
            raise InputError("the loss of a perturbed supernet is not finite; lower optimizer.lr")
        return loss

    def strengths(self) -> _Weights:
        """Weights that `parse_genotype` reads the decisions from.

        A chosen operation is as strong as its edge, from 1 to 2 by rank; the others come after all of these, by the
        loss without them, for where too many skips are chosen.
        """
        normal, reduce = (self._strengths(kind) for kind in (0, 1))
        return normal, reduce

    def _strengths(self, kind: int) -> NDArray[np.float64]:
        found = np.zeros(self.weights[kind].shape)
        of_edges = np.array([self.edge_costs[kind, edge] for edge in range(len(found))])
        ranks = of_edges.argsort(kind="stable").argsort() / len(found)
        for edge, row in enumerate(found):
            costs = self.operation_costs[kind, edge]
            row[:] = costs.argsort(kind="stable").argsort() / len(row)
            row[int(costs.argmax())] = 1 + ranks[edge]
        return found


def choose_by_perturbation(
    config: FinetuneConfig,
    search: SearchConfig,
    steps: AlphaSteps,
    images: TrainingPixels,
    preprocessing: Preprocessing,
    device: torch.device,
    shares: Shares,
    asked: list[str],
    log: Callable[[str], object],
) -> Genotype:
    """The cell of a supernet whose epochs are done; its weights are trained on. A collective.

    Args:
        config: The run.
        search: Its search.
        steps: Alpha and the supernet.
        images: Those that its weights learn from.
        preprocessing: Of the images.
        device: Where it computes.
        shares: Weights of the operations, as the search left them.
        asked: Signals that came before now; more are added.
        log: Is told what happens.

    Raises:
        StoppedError: a signal came; a resumed run begins to choose again.
        GateError: training diverged.
    """
    decisions = 2 * (search.space().edges + search.nodes)
    total = decisions * search.perturbation_steps
    log(f"choosing by perturbation: {decisions} decisions, {search.perturbation_steps} steps after each")
    own = steps.images_of_alpha(config.epochs, _LOSS_BATCHES)
    training = image_rounds(config, images, preprocessing, device, epoch=config.epochs, steps=total)
    tuning = _Tuning(steps, training, search.perturbation_steps, asked)

    def loss(weights: _Weights) -> float:
        return steps.loss_with(_edge_weights(weights), own)

    with on_stop_signal(asked.append), lost_workers_named():
        cell = perturbed_cell(search, shares, loss, tuning, config.seed)
    if 2 * tuning.lost > total:
        raise GateError(
            f"search.choose perturbation: {tuning.lost} of {total} steps had no finite gradient; lower optimizer.lr"
        )
    return cell


class _Tuning:
    """Some steps of the supernet's weights, with given weights of its edges."""

    def __init__(self, steps: AlphaSteps, batches: Iterator[Batch], count: int, asked: list[str]) -> None:
        self._steps, self._batches, self._count, self._asked = steps, batches, count, asked
        self.lost = 0
        """Steps without a finite gradient."""

    def __call__(self, weights: _Weights) -> None:
        for _ in range(self._count):
            finite, stopped = self._steps.tune_with(
                _edge_weights(weights), next(self._batches), _RATE, stop=bool(self._asked)
            )
            self.lost += not finite
            if stopped:
                raise StoppedError


def _edge_weights(weights: _Weights) -> EdgeWeights:
    normal, reduce = (torch.from_numpy(each.astype(np.float32)) for each in weights)
    return EdgeWeights(normal, reduce)
