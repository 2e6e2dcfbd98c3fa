"""The folder of one run: `output/name/time/` with configuration, environment, log and metrics.

    config.yaml     the resolved configuration; a run resumed with another keeps the earlier ones as config-1.yaml, ...
    env.json        command, versions, machine, processes, device; env-2.json, ... of later starts
    log.txt         every line of the log, also those that were not printed
    metrics.jsonl   one JSON object per line: {"kind": "source"|"train"|"evaluation", "step", "epoch", ...}
    metrics.csv     the same as a table, written when the run ends
    tb/             the same for TensorBoard, written by `tracking`
    checkpoints/    written by `checkpoints`
    report.html     the whole run on one page, written by `run_report`
    result.json     written when the run ends, with the outcome; `finished` is false when it was stopped

A new run never writes into an existing folder, and `run_locked` keeps two runs out of one. NaN and infinity are null in
the JSON files.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...converters.records.json_text import parse_json
from ...errors import InputError
from ...version import __version__
from ..config.config import FinetuneConfig
from ..config.files import dump_config
from .disk_space import out_of_space_named
from .progress_display import ProgressDisplay
from .tracking import Tracker, write_csv

__all__ = ["RunFolder", "create_run_folder", "find_unfinished", "read_metrics", "renew_config", "run_locked"]


def create_run_folder(config: FinetuneConfig) -> Path:
    """Make a new run folder, named by the time, with a number if that name exists, and write config.yaml into it.

    Raises:
        InputError: the folder cannot be made.
        PlatformError: the disk is full.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parent = config.output / config.name
    number, path = 1, parent / stamp
    try:
        parent.mkdir(parents=True, exist_ok=True)  # apart from `path`, for `exists` is false for a broken link
        while path.exists():
            number += 1
            path = parent / f"{stamp}-{number}"
        path.mkdir()
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise InputError(f"{path}: cannot create the run folder ({reason}); set output=DIR") from error
    with out_of_space_named(path):
        (path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    return path


def renew_config(run: Path, config: FinetuneConfig) -> None:
    """Write the configuration with which a run is resumed; if it differs, the earlier one becomes config-1.yaml, ...

    Raises:
        PlatformError: the disk is full; config.yaml is as it was.
    """
    path, text = run / "config.yaml", dump_config(config)
    before = path.read_text(encoding="utf-8") if path.exists() else text
    with out_of_space_named(run, "writing config.yaml"):
        if before != text:
            number = 1
            while (run / f"config-{number}.yaml").exists():
                number += 1
            _write_whole(run / f"config-{number}.yaml", before)
        if before != text or not path.exists():
            _write_whole(path, text)


def find_unfinished(config: FinetuneConfig) -> Path | None:
    """The newest run folder below `output/name/` that has a checkpoint and did not finish; None if there is none."""
    runs = sorted((config.output / config.name).glob("*/checkpoints/last.rtool"), reverse=True)
    for checkpoint in runs:
        run = checkpoint.parent.parent
        result = run / "result.json"
        if not result.exists() or not parse_json(result.read_text(encoding="utf-8"))["finished"]:
            return run
    return None


@contextmanager
def run_locked(run: Path) -> Iterator[None]:
    """Lock a run folder within the context.

    Raises:
        InputError: another process holds the lock.
    """
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{run}: another run is writing here; wait until it ends, or start a new one without --resume"
            ) from error
        yield


@dataclass
class RunFolder:
    """The run folder, open on the process that writes it. Use as a context manager, with the run locked."""

    path: Path
    display: ProgressDisplay = field(default_factory=ProgressDisplay)
    trackers: list[Tracker] = field(default_factory=list)

    def __enter__(self) -> RunFolder:
        (self.path / "result.json").unlink(missing_ok=True)  # of the run that is resumed
        self.display.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.display.__exit__(None, None, None)
        for tracker in self.trackers:
            tracker.close()

    def log(self, line: str, *, routine: bool = False) -> None:
        """Append a line to log.txt and print it on stderr; routine lines are not printed where a bar shows the same."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        if not (routine and self.display.has_bar):
            self.display.line(line)

    def record(self, **values: Any) -> None:
        """Append one object to metrics.jsonl."""
        values = _finite_or_null(values)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")
        for tracker in self.trackers:
            tracker.add(values)

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps beyond `step`, which a resumed run repeats."""
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        _write_whole(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    def write_environment(self, details: Mapping[str, Any]) -> None:
        """Write env.json; a resumed run writes env-2.json, ..."""
        number = 1
        while (path := self.path / ("env.json" if number == 1 else f"env-{number}.json")).exists():
            number += 1
        path.write_text(json.dumps({**_environment(), **details}, indent=2) + "\n", encoding="utf-8")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json and metrics.csv."""
        text = json.dumps(_finite_or_null(result), indent=2, allow_nan=False) + "\n"
        _write_whole(self.path / "result.json", text)
        write_csv(read_metrics(self.path), self.path / "metrics.csv")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run's metrics.jsonl, in order; a last line that a kill cut short is left out."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(parse_json(line))
        except json.JSONDecodeError:
            break
    return rows


def _write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: after a full disk or a kill, the earlier file is still there."""
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # some file systems report only now that they are full
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _finite_or_null(value: Any) -> Any:
    """The same value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite_or_null(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "rtool": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
