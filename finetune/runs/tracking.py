"""Scalars of a run beside metrics.jsonl: a CSV table, TensorBoard events, and Weights & Biases if configured.

Each tracker is given the records of metrics.jsonl as they are written. They are views of that file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import PlatformError
from ..config.config import TrackingConfig

__all__ = ["Tracker", "flatten_record", "open_trackers", "write_csv"]


class Tracker(Protocol):
    """Something that is given the records of metrics.jsonl."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one record of metrics.jsonl."""

    def add_picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Add a picture, uint8 RGB [H, W, 3]."""

    def add_histogram(self, name: str, values: NDArray[np.float32], step: int) -> None:
        """Add the distribution of some values, of any shape."""

    def close(self) -> None:
        """Write what is buffered."""


def open_trackers(config: TrackingConfig, run: Path, step: int, settings: Mapping[str, Any]) -> list[Tracker]:
    """The trackers that a configuration names.

    Args:
        config: The section `tracking`.
        run: The run folder.
        step: The step from which the run continues, 0 for a new one.
        settings: The whole configuration, for Weights & Biases.

    Raises:
        PlatformError: wandb is configured and not installed.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(_TensorBoard(run / "tb", step))
    if config.wandb is not None:
        trackers.append(_Wandb(config.wandb, run, settings))
    return trackers


def flatten_record(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record as `losses/arcface`, `lr`, ...; step, epoch, texts and nulls left out."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}/{name}", float(number)) for name, number in value.items() if number is not None)
        elif isinstance(value, int | float) and key not in ("step", "epoch"):
            yield key, float(value)


def write_csv(records: list[dict[str, Any]], path: Path) -> None:
    """Write all records as one table, with a column per number that occurs, those of training first."""
    rows = [{"kind": r["kind"], "step": r["step"], "epoch": r["epoch"], **dict(flatten_record(r))} for r in records]
    trained_first = sorted(rows, key=lambda row: row["kind"] != "train")
    columns = list(dict.fromkeys(name for row in trained_first for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events after `step` are from before a kill, and the run repeats them.
        self._writer = SummaryWriter(folder, purge_step=step + 1 if step else None)

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in flatten_record(record):
            self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def add_picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def add_histogram(self, name: str, values: NDArray[np.float32], step: int) -> None:
        self._writer.add_histogram(name, values, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, project: str, run: Path, settings: Mapping[str, Any]) -> None:
        try:
            wandb = import_module("wandb")
        except ImportError as error:
            raise PlatformError(
                "tracking.wandb: wandb is not installed; pip install wandb, or set it to null"
            ) from error
        # One id per run folder, so that a resumed run continues in the same place.
        self._run: Any = wandb.init(
            project=project,
            id=f"{run.parent.name}-{run.name}",
            name=run.name,
            dir=run,
            config=dict(settings),
            resume="allow",
        )

    def add(self, record: Mapping[str, Any]) -> None:
        self._run.log(
            {f"{record['kind']}/{name}": value for name, value in flatten_record(record)}, step=record["step"]
        )

    def add_picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._run.log({name: import_module("wandb").Image(pixels)}, step=step)

    def add_histogram(self, name: str, values: NDArray[np.float32], step: int) -> None:
        self._run.log({name: import_module("wandb").Histogram(values)}, step=step)

    def close(self) -> None:
        self._run.finish()
