"""Method random: cells drawn at random and halved in rounds, without a supernet; what any search must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...converters.bundles.bundle import save_bundle
from ...converters.records.preprocessing import Preprocessing
from ...converters.records.provenance import ChainLink, to_json
from ..config.config import FinetuneConfig
from ..config.search import SearchConfig
from ..data.loading import TrainingPixels
from ..network.networks import Network
from ..processes.collectives import world_size
from ..runs.checkpoints import Progress, load_progress, prune_checkpoints, save_checkpoint
from ..runs.data_record import DataRecord
from ..runs.run_folder import RunFolder
from ..runs.trained_link import trained_link
from ..training.epoch import epoch_steps
from ..training.training import Outcome
from .brief_training import BriefTraining, StoppedError, ranking_data
from .cells import Candidate, random_cells
from .costs import random_budget
from .finding import CellRanking, Found, write_found
from .ranking import halving_rounds

__all__ = ["search_at_random"]


def search_at_random(
    config: FinetuneConfig,
    search: SearchConfig,
    network: Network,
    images: TrainingPixels,
    record: DataRecord,
    device: torch.device,
    run: Path,
    folder: RunFolder | None,
    asked: list[str],
    checkpoint: Path | None,
) -> tuple[Outcome, Found | None]:
    """Run it, or continue it after the last cell that was trained. A collective.

    Args:
        config: The run.
        search: Its search.
        network: For the preprocessing.
        images: The training images.
        record: Of the data, for checkpoints.
        device: Where it computes.
        run: The run's folder.
        folder: The same, on the process that writes it.
        asked: Signals that came before now.
        checkpoint: Of an earlier start; None for a new run.

    Returns:
        The outcome, and the cell, None where a signal stopped it.
    """
    if folder is not None:
        (run / "search").mkdir(exist_ok=True)
        folder.write_environment({"processes": world_size(), "device": str(device), "model": network.name})
    preprocessing = network.preprocessing
    steps = config.epochs * (len(epoch_steps(config, images.dataset, ranks=world_size(), epoch=0)))
    budget = search.budget or random_budget(search, steps, preprocessing)
    candidates = random_cells(search, search.shortlist, config.seed)
    rounds = halving_rounds(len(candidates), budget)
    data = ranking_data(config, search, images)
    log = (lambda _: None) if folder is None else folder.log
    described = ", ".join(f"{each.cells} cells to step {each.until}" for each in rounds)
    log(f"random search: {budget} steps of single cells; {described}")
    ranking = CellRanking(config, search, preprocessing, device, data, run / "search", log, asked)
    before = Progress() if checkpoint is None else load_progress(checkpoint)
    images_per_step = config.data.batch * world_size()
    progress = Progress(step=before.step, world_size=world_size(), batches=1, global_batch=images_per_step)

    def save(number: int, training: BriefTraining) -> None:
        nonlocal progress
        progress = replace(progress, step=progress.step + 1)
        _save(config, progress, candidates, number, training, preprocessing, record, run, folder)

    try:
        ranked = ranking.rank(candidates, rounds, save)
    except StoppedError:
        return Outcome(False, asked[-1] if asked else "a signal to another process", progress, 0.0, data.metric), None
    cell = ranked[0].candidate.genotype
    found = write_found(config, search, cell, "random", {}, ranked, data.metric, preprocessing, run, log)
    return Outcome(True, None, replace(progress, epoch=config.epochs), 0.0, data.metric), found


def _save(
    config: FinetuneConfig,
    progress: Progress,
    candidates: Sequence[Candidate],
    number: int,
    training: BriefTraining,
    preprocessing: Preprocessing,
    record: DataRecord,
    run: Path,
    folder: RunFolder | None,
) -> None:
    """A checkpoint of the cell that was trained last, so that the run can be continued."""
    tensors = training.state()
    if folder is None:
        return
    genotype = candidates[number].genotype.to_json()
    options = {"genotype": genotype, "embedding_size": training.network.dimension}
    link = trained_link(config.name, progress, (-1, {}))

    def save(path: Path) -> None:
        _save_bundle(path, training.backbone, options, preprocessing, link)

    save_checkpoint(run / "checkpoints", progress, tensors, save, best=False, data=record)
    prune_checkpoints(run / "checkpoints", config.checkpoints.keep, progress)


def _save_bundle(
    path: Path, module: nn.Module, options: dict[str, object], preprocessing: Preprocessing, link: ChainLink
) -> None:
    architecture = {"name": "searched", "options": options}
    provenance = {"trained_from": "searched", "chain": to_json((link,))}
    save_bundle(module, path, architecture=architecture, preprocessing=preprocessing, provenance=provenance)
