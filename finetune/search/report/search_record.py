"""What a run with a section `search` left behind, read back for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....converters.files.array_files import read_arrays
from ....converters.records.json_text import parse_json
from ....converters.zoo.cells.genotype import Genotype, genotype_of_json, read_genotype
from ....errors import InputError
from ...config.config import FinetuneConfig
from ...config.files import load_config
from ...config.search import SearchConfig
from ...runs.run_folder import read_metrics
from ..mixing import shares
from .comparison import ComparedNetwork, read_comparison

__all__ = ["SearchRecord", "ShortlistRow", "read_search"]

Series = list[tuple[int, float]]
"""Epoch, from 1, and value."""


@dataclass(frozen=True)
class ShortlistRow:
    """A cell that was trained briefly."""

    origin: str
    genotype: Genotype
    metrics: tuple[float | None, ...]
    """After each round that it took part in."""
    found: bool


@dataclass(frozen=True)
class SearchRecord:
    """A search, as far as it went."""

    run: Path
    config: FinetuneConfig
    search: SearchConfig
    genotype: Genotype | None
    """The found cell; None where the search has not ended."""
    curves: Mapping[str, Series]
    """entropy, skips/normal, skips/reduce, eigenvalue, expected_ms, supernet, discretised and gap, those there are."""
    measured: str
    """The name of the metric of the curves supernet and discretised."""
    shares: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    """Weights of operations [edges, operations] of normal and reduction cells in the last epoch."""
    shortlist: Sequence[ShortlistRow]
    """Best first."""
    ranked_by: str
    """The metric that the shortlist was ranked by."""
    compared: Sequence[ComparedNetwork] = field(default_factory=tuple)
    """Networks trained in full, the found cell's among them."""

    @property
    def entropy(self) -> float | None:
        """Of alpha at the end, in nats; None for a search without alpha."""
        entropies = self.curves.get("entropy")
        return entropies[-1][1] if entropies else None


def read_search(run: Path) -> SearchRecord:
    """What is in the folder of a run with a section `search`.

    Raises:
        InputError: a file of it is not what a search writes.
    """
    config = load_config(run / "config.yaml")
    assert config.search is not None, "a run without a search has another report"
    folder = run / "search"
    genotype = read_genotype(folder / "genotype.json") if (folder / "genotype.json").is_file() else None
    shortlist, ranked_by = _shortlist(folder / "shortlist.json")
    records = read_metrics(run)
    return SearchRecord(
        run,
        config,
        config.search,
        genotype,
        _curves(records),
        (config.evaluation and config.evaluation.metric) or _measured(records),
        _shares(folder / "alphas.npy", config.search),
        shortlist,
        ranked_by,
        read_comparison(folder),
    )


def _measured(records: Sequence[Mapping[str, Any]]) -> str:
    """The metric that is chosen where the configuration names none: that of retrieval or of verification."""
    return "mAP" if any("mAP" in record for record in records) else "accuracy"


def _curves(records: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    curves: dict[str, Series] = {}
    for record in records:
        if record["kind"] == "search":
            numbers = {name: record.get(name) for name in ("entropy", "eigenvalue", "expected_ms")}
            numbers |= {f"skips/{cell}": count for cell, count in record.get("skips", {}).items()}
        elif record["kind"] == "evaluation" and isinstance(record.get("gap"), float):
            numbers = {name: record.get(name) for name in ("discretised", "gap")}
            numbers["supernet"] = record["discretised"] + record["gap"]
        else:
            continue
        for name, value in numbers.items():
            if isinstance(value, int | float):
                curves.setdefault(name, []).append((int(record["epoch"]), float(value)))
    return curves


def _shares(path: Path, search: SearchConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The last epoch's shares."""
    if not path.is_file():
        return None
    history = read_arrays(path)
    if isinstance(history, dict) or history.ndim != 3 or not len(history):
        raise InputError(f"{path}: expected alphas [epochs, edges, operations]; it was not written by a search")
    columns = len(search.operations) + search.edge_weights
    if history.shape[1:] != (2 * search.space().edges, columns):
        raise InputError(
            f"{path}: of shape {list(history.shape)}, but the search of config.yaml has {2 * search.space().edges} "
            f"edges and {columns} numbers for each; it is of another search"
        )
    normal, reduce = torch.from_numpy(history[-1].astype(np.float64)).chunk(2)
    return shares(normal, search).numpy(), shares(reduce, search).numpy()


def _shortlist(path: Path) -> tuple[list[ShortlistRow], str]:
    """The cells, best of the last round first, and the name of what they were ranked by."""
    if not path.is_file():
        return [], ""
    content = parse_json(path.read_text(encoding="utf-8"))
    rows = [
        ShortlistRow(
            str(row["origin"]),
            genotype_of_json(row["genotype"], str(path)),
            tuple(row["metrics"]),
            row["cell"] == content["found"],
        )
        for row in content["cells"]
    ]
    lowest = float("-inf")
    rows.sort(
        key=lambda row: (len(row.metrics), lowest if not row.metrics or row.metrics[-1] is None else row.metrics[-1]),
        reverse=True,
    )
    return rows, str(content["metric"])
