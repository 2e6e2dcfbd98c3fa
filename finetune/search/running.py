"""A run with a section `search`, from its supernet to the cell that is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config.config import FinetuneConfig
from ..config.search import SearchConfig
from ..network.networks import Network
from ..network.search_backbone import open_network
from ..runs.run_folder import RunFolder
from ..training.prepared_data import PreparedData, prepare_data
from ..training.training import Outcome, Trainer
from .at_random import search_at_random
from .brief_training import StoppedError
from .finding import Found, find_cell
from .searching import Searching

__all__ = ["SearchRun", "run_search"]


@dataclass(frozen=True)
class SearchRun:
    """How a search ended: what it found is None where a signal stopped it."""

    outcome: Outcome
    network: Network
    data: PreparedData
    found: Found | None


def run_search(
    config: FinetuneConfig,
    search: SearchConfig,
    folder: RunFolder | None,
    run: Path,
    checkpoint: Path | None,
    device: torch.device,
    asked: list[str],
    train: Callable[[Network, PreparedData, Trainer], Outcome],
) -> SearchRun:
    """Search cells: alpha beside the weights of a supernet, or cells at random. A collective.

    Args:
        config: The run.
        search: Its search.
        folder: The run's folder, on the process that writes it.
        run: Its path.
        checkpoint: To continue from; None for a new run.
        device: Where it computes.
        asked: Names of signals that came before now; more are added.
        train: Runs a trainer, and describes the run before.

    Raises:
        ConfigError: images too low for the operation part, or a latency table of another space.
        DataError: an identity has one image, or there are too few to rank cells on.
        GateError: training diverged.
    """
    at_random = search.method == "random"
    network = open_network(config, checkpoint)
    data = prepare_data(config, network.preprocessing)
    if at_random:
        outcome, found = search_at_random(
            config, search, network, data.train, data.record, device, run, folder, asked, checkpoint
        )
        return SearchRun(outcome, network, data, found)
    searching = Searching(config, search, network, data, folder, device)
    if config.evaluation is not None:  # a supernet of random weights is no source model
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"first": False})})
    trainer = Trainer(config, network, searching.data, folder, run / "checkpoints", device, beside=searching.beside)
    outcome = train(network, searching.data, trainer)
    found = None
    if outcome.finished:
        try:
            perturbed = searching.perturbed(asked) if search.choose == "perturbation" else None
            found = find_cell(config, search, searching, network.preprocessing, device, run, folder, asked, perturbed)
        except StoppedError:
            stopped = asked[-1] if asked else "a signal to another process"
            outcome = replace(outcome, finished=False, stopped_by=stopped)
    return SearchRun(outcome, network, searching.data, found)
