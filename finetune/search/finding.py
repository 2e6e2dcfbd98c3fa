"""The end of a search: the cell that is called found, and its file genotype.json.

Alpha is not strength (Wang et al., "Rethinking Architecture Selection in Differentiable NAS", arXiv:2108.04392), so the
cell that alpha says is trained briefly beside others drawn from alpha, and the best on held-out training identities is
found. Method random has nothing but this: cells drawn at random, in rounds that keep the better half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...converters.records.preprocessing import Preprocessing
from ...converters.zoo.cells.genotype import Genotype, write_genotype
from ...converters.zoo.cells.network_costs import network_costs
from ...errors import GateError, InputError
from ..config.config import FinetuneConfig
from ..config.search import SearchConfig
from ..data.loading import lost_workers_named
from ..processes.collectives import barrier, rank
from ..processes.interruption import on_stop_signal
from ..runs.run_folder import RunFolder
from .brief_training import BriefTraining, RankingData, ranking_data
from .cells import Candidate, cell_of, drawn_cells
from .ranking import Ranked, Round, rank_cells
from .recording import GENOTYPE
from .searching import Searching, undecided_from

__all__ = ["CellRanking", "Found", "find_cell", "write_found"]


@dataclass(frozen=True)
class Found:
    """What a search found; paths are relative to the run."""

    genotype: str
    """Its file."""
    source: str
    """argmax, shortlist, perturbation or random."""
    parameters: int
    macs: int
    """Multiplications with an addition each, for one image."""
    entropy: float | None
    """Of alpha, in nats; None without one."""
    decided: bool | None
    """Whether that is below 0.8 of the entropy of equal shares."""
    metric: str | None
    """By which the shortlist was ranked, on held-out training identities."""
    value: float | None
    """What the found cell reached in its brief training; not what it is worth."""
    cells: int
    """Cells that were trained."""


@dataclass
class CellRanking:
    """Trainings of cells in one run, and whether they must stop."""

    config: FinetuneConfig
    search: SearchConfig
    preprocessing: Preprocessing
    device: torch.device
    data: RankingData
    folder: Path
    log: Callable[[str], object]
    asked: list[str]
    """Names of the signals that asked to stop."""

    def rank(
        self,
        candidates: Sequence[Candidate],
        rounds: Sequence[Round],
        after_cell: Callable[[int, BriefTraining], object] = lambda *_: None,
    ) -> list[Ranked]:
        """All cells, the best first.

        Raises:
            StoppedError: a signal came.
        """
        steps = rounds[-1].until

        def build(number: int, candidate: Candidate) -> BriefTraining:
            seed = (self.config.seed * 1009 + number) % 2**32
            return BriefTraining(
                self.config, candidate.genotype, self.data, self.preprocessing, self.device, steps=steps, seed=seed
            )

        with on_stop_signal(self.asked.append), lost_workers_named():
            return rank_cells(
                candidates,
                rounds,
                build,
                self.folder,
                metric=self.data.metric,
                stops=lambda: bool(self.asked),
                log=self.log,
                after_cell=after_cell,
            )


def find_cell(
    config: FinetuneConfig,
    search: SearchConfig,
    searching: Searching,
    preprocessing: Preprocessing,
    device: torch.device,
    run: Path,
    folder: RunFolder | None,
    asked: list[str],
    perturbed: Genotype | None = None,
) -> Found:
    """Choose the cell of a search whose epochs are done, and write it. A collective.

    Args:
        config: The run.
        search: Its search.
        searching: The search that has ended.
        preprocessing: Of the images.
        device: Where it computes.
        run: The run's folder.
        folder: The same, on the process that writes it.
        asked: Signals that came before now; more are added.
        perturbed: The cell chosen by perturbation; None: the one that alpha says is the first candidate.

    Raises:
        StoppedError: a signal came.
        GateError: the alphas are not finite.
    """
    log: Callable[[str], object] = (lambda _: None) if folder is None else folder.log
    shares = searching.found_shares()
    try:
        first = perturbed or cell_of(search, shares, most_skips=search.most_skips)
    except InputError as error:
        raise GateError(f"search: {error}") from error
    origin = "argmax" if perturbed is None else "perturbation"
    ranked: list[Ranked] = []
    metric = None
    if search.shortlist > 1:
        drawn = drawn_cells(search, shares, first, search.shortlist - 1, config.seed)
        data = ranking_data(config, search, searching.all_images)
        metric = data.metric
        ranking = CellRanking(config, search, preprocessing, device, data, run / "search", log, asked)
        candidates = [Candidate(first, origin), *drawn]
        ranked = ranking.rank(candidates, [Round(len(candidates), search.shortlist_steps)])
    cell = ranked[0].candidate.genotype if ranked else first
    facts = {"epoch": searching.found_epoch + 1, "order": search.order, "entropy": searching.entropy}
    source = "shortlist" if ranked else origin
    return write_found(config, search, cell, source, facts, ranked, metric, preprocessing, run, log)


def write_found(
    config: FinetuneConfig,
    search: SearchConfig,
    cell: Genotype,
    source: str,
    facts: dict[str, Any],
    ranked: Sequence[Ranked],
    metric: str | None,
    preprocessing: Preprocessing,
    run: Path,
    log: Callable[[str], object],
) -> Found:
    """Write genotype.json and log what was found. A collective."""
    height, width = preprocessing.height, preprocessing.width
    parameters, macs = network_costs(cell, height, width, embedding_size=search.embedding_size)
    cost = {"parameters": parameters, "macs": macs}
    stated = {"method": search.method, "seed": config.seed, **facts, **cost, "source": source}
    if rank() == 0:
        write_genotype(replace(cell, facts=stated), run / "search" / GENOTYPE)
    barrier()
    entropy = facts.get("entropy")
    decided = None if entropy is None else entropy < undecided_from(len(search.operations))
    value = ranked[0].metrics[-1] if ranked else None
    found = Found(f"search/{GENOTYPE}", source, parameters, macs, entropy, decided, metric, value, len(ranked))
    log(f"found a cell of {found.parameters:,} parameters and {found.macs:,} multiplications, by {source}")
    if decided is False:
        limit = undecided_from(len(search.operations))
        log(
            f"note: alpha decided nothing: its entropy {entropy:.3f} is not below {limit:.3f}, "
            "0.8 of that of equal shares; the found cell is one of many alike"
        )
    log(
        f"train it with: model.reference=searched 'model.options={{genotype: {run / 'search' / GENOTYPE}}}'; what the "
        "supernet or the shortlist reached is not what it is worth"
    )
    return found
