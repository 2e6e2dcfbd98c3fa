"""Networks that were trained in full, beside each other: the found cell, other cells of its space, and baselines.

`search/comparison.json` holds them, one entry per network with one set of metrics per training seed, because on small
data the seeds of one cell differ as much as cells do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, get_args

from ....converters.files.atomic_file import write_atomically
from ....converters.records.json_text import parse_json
from ....errors import InputError

__all__ = ["ComparedNetwork", "Percentile", "Role", "found_percentile", "read_comparison", "write_comparison"]

Role = Literal["found", "halving", "random", "baseline"]
"""The found cell, the best of successive halving, a random cell of the same space, or a network of another kind."""

FILE = "comparison.json"


@dataclass(frozen=True)
class ComparedNetwork:
    """One network, trained once per seed."""

    name: str
    role: Role
    parameters: int
    macs: int
    """Of one image."""
    latency_ms: float | None
    """Of one image, measured; None where it was not."""
    metrics: tuple[Mapping[str, float], ...]
    """Of each training seed, such as mAP, rank1 and top1."""

    def mean(self, metric: str) -> float | None:
        """The mean over the seeds; None where it was not measured with each."""
        values = [seed[metric] for seed in self.metrics if metric in seed]
        return fmean(values) if values and len(values) == len(self.metrics) else None

    def deviation(self, metric: str) -> float | None:
        """The standard deviation over the seeds; None for fewer than two."""
        values = [seed[metric] for seed in self.metrics if metric in seed]
        return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Percentile:
    """Where the found cell lies among random cells of its space, 100 above all of them."""

    metric: str
    mean: float
    """Of its mean over the seeds."""
    low: float
    high: float
    """Of its worst and best seed."""
    random_cells: int
    seeds: int

    def __str__(self) -> str:
        """The percentile, its range over the seeds, and of how many cells."""
        return (
            f"percentile {self.mean:.0f} of {self.random_cells} random cells by {self.metric} "
            f"({self.low:.0f} to {self.high:.0f} over {self.seeds} training seeds)"
        )


def found_percentile(compared: Sequence[ComparedNetwork], metric: str) -> Percentile | None:
    """The found cell among the random ones, by their means over the seeds; None where one or the other is missing."""
    found = next((each for each in compared if each.role == "found"), None)
    others = [mean for each in compared if each.role == "random" and (mean := each.mean(metric)) is not None]
    own = None if found is None else found.mean(metric)
    if found is None or own is None or not others:
        return None

    def below(value: float) -> float:
        return 100 * sum((other < value) + 0.5 * (other == value) for other in others) / len(others)

    seeds = [below(seed[metric]) for seed in found.metrics]
    return Percentile(metric, below(own), min(seeds), max(seeds), len(others), len(seeds))


def write_comparison(folder: Path, compared: Sequence[ComparedNetwork]) -> None:
    """Write `comparison.json` into the folder `search/` of a run.

    Raises:
        InputError: it cannot be written.
    """
    rows = [asdict(each) for each in compared]
    write_atomically(folder / FILE, (json.dumps({"networks": rows}, indent=1) + "\n").encode())


def read_comparison(folder: Path) -> tuple[ComparedNetwork, ...]:
    """The networks of `comparison.json` in the folder `search/` of a run; none where there is no such file.

    Raises:
        InputError: it is not what `write_comparison` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        rows = parse_json(path.read_bytes())["networks"]
        found = []
        for row in rows:
            if row["role"] not in get_args(Role):
                raise ValueError(f"role {row['role']!r:.40}")
            latency = None if row["latency_ms"] is None else float(row["latency_ms"])
            metrics = tuple({str(name): float(value) for name, value in seed.items()} for seed in row["metrics"])
            costs = int(row["parameters"]), int(row["macs"])
            found.append(ComparedNetwork(str(row["name"]), row["role"], *costs, latency, metrics))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: not a comparison of networks ({error}); make it with `rtool bench search`"
        ) from error
    return tuple(found)
