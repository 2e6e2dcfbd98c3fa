"""Checkpoints: each is a bundle, readable by every command, plus the state that resuming needs.

    checkpoints/step-00000240.rtool/   the bundle; training.safetensors, training.json
    checkpoints/last.rtool             link to the newest
    checkpoints/best.rtool             link to the best by the chosen metric

A checkpoint is written under a temporary name, flushed and renamed, and a link is replaced in one step: a kill at any
moment leaves complete checkpoints only. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from .disk_space import out_of_space_named

__all__ = [
    "Progress",
    "load_progress",
    "load_shards",
    "load_training_state",
    "prune_checkpoints",
    "save_checkpoint",
    "stage_shard",
]

_STATE = "training.json"
_TENSORS = "training.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0
    """Rows of the epoch's plan already used."""
    step: int = 0
    """Optimizer steps taken."""
    world_size: int = 1
    best: float | None = None
    skipped: int = 0
    """Steps left out because a gradient was not finite."""


def save_checkpoint(
    folder: Path,
    progress: Progress,
    tensors: Mapping[str, Tensor],
    save_bundle: Callable[[Path], object],
    *,
    best: bool,
) -> Path:
    """Write the checkpoint of `progress` and point `last` (and `best`) at it; shards staged before are taken in.

    Raises:
        PlatformError: the disk is full; earlier checkpoints are intact, and nothing is left of this one.
    """
    folder.mkdir(exist_ok=True)
    name = _free_name(folder, progress.step)
    final, temporary = folder / name, folder / f".{name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    with out_of_space_named(folder, f"saving step {progress.step}"), _removed_on_failure(temporary):
        save_bundle(temporary)
        save_file(dict(tensors), temporary / _TENSORS)
        for shard in _staging(folder, progress).glob("shard-*.safetensors"):
            os.replace(shard, temporary / shard.name)
        (temporary / _STATE).write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
        _flush(temporary)
        os.replace(temporary, final)
        _link(folder / "last.rtool", name)
        if best:
            _link(folder / "best.rtool", name)
    return final


def stage_shard(folder: Path, progress: Progress, rank: int, tensors: Mapping[str, Tensor]) -> None:
    """Leave what one rank alone holds where the checkpoint of `progress`, written by rank 0 afterwards, takes it in."""
    staging = _staging(folder, progress)
    with out_of_space_named(folder, f"saving step {progress.step}"):
        staging.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), staging / f"shard-{rank:05d}.safetensors")


def load_shards(checkpoint: Path) -> list[dict[str, Tensor]]:
    """The shards of all ranks of the run that wrote a checkpoint, in rank order."""
    return [load_file(path) for path in sorted(checkpoint.glob("shard-*.safetensors"))]


def load_training_state(checkpoint: Path) -> tuple[Progress, dict[str, Tensor]]:
    """The training state beside a bundle.

    Raises:
        InputError: the folder is a plain bundle.
    """
    return load_progress(checkpoint), load_file(checkpoint / _TENSORS)


def load_progress(checkpoint: Path) -> Progress:
    """How far the run had come.

    Raises:
        InputError: the folder is a plain bundle.
    """
    path = checkpoint / _STATE
    if not path.is_file():
        raise InputError(f"{checkpoint}: no {_STATE}; this is a bundle, not a checkpoint to resume from")
    return Progress(**json.loads(path.read_text(encoding="utf-8")))


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and those that `last` and `best` point at; and partial ones."""
    linked = {(folder / link).resolve() for link in ("last.rtool", "best.rtool")}
    for path in sorted(folder.glob("step-*.rtool"))[:-keep]:
        if path.resolve() not in linked:
            shutil.rmtree(path)
    for pattern in (".step-*.partial", ".shards-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _free_name(folder: Path, step: int) -> str:
    """A name of its own: a run that was stopped may come to the same step again, and must not touch what it has."""
    name, number = f"step-{step:08d}.rtool", 1
    while (folder / name).exists():
        number += 1
        name = f"step-{step:08d}-{number}.rtool"
    return name


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _staging(folder: Path, progress: Progress) -> Path:
    return folder / f".shards-{progress.step:08d}"


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
