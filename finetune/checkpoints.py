"""Checkpoints: each is a bundle, readable by every command, plus the state that resuming needs.

    checkpoints/step-00000240.rtool/   the bundle; training.safetensors, training.json
    checkpoints/last.rtool             link to the newest
    checkpoints/best.rtool             link to the best by the chosen metric

A checkpoint is written under a temporary name, flushed and renamed, and a link is replaced in one step: a kill at any
moment leaves complete checkpoints only. Nothing is pickled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, PlatformError

__all__ = ["Progress", "load_training_state", "prune_checkpoints", "save_checkpoint"]

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
    """Write the checkpoint of `progress` and point `last` (and `best`) at it.

    Raises:
        PlatformError: the disk is full; earlier checkpoints are intact.
    """
    name = f"step-{progress.step:08d}.rtool"
    final, temporary = folder / name, folder / f".{name}.partial"
    folder.mkdir(exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if final.exists():  # a run stopped and resumed at the same step
            shutil.rmtree(final)
        save_bundle(temporary)
        save_file(dict(tensors), temporary / _TENSORS)
        (temporary / _STATE).write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
        _flush(temporary)
        os.replace(temporary, final)
        _link(folder / "last.rtool", name)
        if best:
            _link(folder / "best.rtool", name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError(
                f"{folder}: disk full while saving step {progress.step}; older checkpoints are whole"
            ) from error
        raise
    return final


def load_training_state(checkpoint: Path) -> tuple[Progress, dict[str, Tensor]]:
    """The training state beside a bundle.

    Raises:
        InputError: the folder is a plain bundle.
    """
    path = checkpoint / _STATE
    if not path.is_file():
        raise InputError(f"{checkpoint}: no {_STATE}; this is a bundle, not a checkpoint to resume from")
    return Progress(**json.loads(path.read_text(encoding="utf-8"))), load_file(checkpoint / _TENSORS)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and those that `last` and `best` point at; and partial ones."""
    linked = {(folder / link).resolve() for link in ("last.rtool", "best.rtool")}
    for path in sorted(folder.glob("step-*.rtool"))[:-keep]:
        if path.resolve() not in linked:
            shutil.rmtree(path)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path)


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
