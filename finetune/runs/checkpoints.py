"""Checkpoints: each is a bundle, which every command can read, plus the state that resuming needs.

    checkpoints/step-00000240.rtool/   the bundle; training.safetensors, training.json, data.json
    checkpoints/last.rtool             link to the newest
    checkpoints/best.rtool             link to the best by the chosen metric
    checkpoints/abandoned-00000480.rtool   was the best, before the run was resumed from an older one

A checkpoint is written under a hidden name, flushed and renamed, gets a hidden name again before it is deleted, and a
link is replaced in one step: a kill at any moment leaves complete checkpoints only. Nothing is pickled.

A checkpoint is proven if a step succeeded after it. When a run diverges, it should continue from the newest proven one:
the step after that did the damage, and all checkpoints saved later contain it. This holds along one sequence of steps
only, so checkpoints later than the one from which a run is resumed are deleted first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...converters.records.json_text import parse_json
from ...errors import InputError, PlatformError
from .data_record import DataRecord, save_data_record
from .disk_space import out_of_space_named

__all__ = [
    "Progress",
    "best_step",
    "check_checkpoint",
    "checkpoint_name",
    "clear_partial",
    "give_up_later",
    "go_back_to_proven",
    "link_checkpoint",
    "load_progress",
    "load_shards",
    "load_training_state",
    "prune_checkpoints",
    "save_checkpoint",
    "stage_shard",
]

_NAME = re.compile(r"step-\d+(-\d+)?\.rtool")
_STATE = "training.json"
_TENSORS = "training.safetensors"
_BUNDLE_TENSORS = "weights.safetensors"
_ADDED = {"without_gain"}
"""Fields that checkpoints of earlier versions lack; their defaults hold for them."""
_HIDDEN = (".step-*.partial", ".shards-*", ".*.link")
"""Names of what a kill may leave behind."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    epoch: int = 0
    batch: int = 0
    """Rows of the epoch's plan that have been used."""
    step: int = 0
    """Optimizer steps, skipped ones included."""
    world_size: int = 1
    """Processes."""
    best: float | None = None
    """The chosen metric of the best checkpoint."""
    skipped: int = 0
    """Steps skipped because a gradient was not finite."""
    skipped_in_a_row: int = 0
    """How many of the latest steps were skipped without one that succeeded between them."""
    batches: int = 0
    """Rows of an epoch's plan; `batch` counts up to it."""
    global_batch: int = 0
    """Images per row of the plan, of all processes."""
    without_gain: int = 0
    """Evaluations since the best one, which `evaluation.patience` bounds."""

    @property
    def last_succeeded(self) -> int:
        """The number of the last step that updated the weights."""
        return self.step - self.skipped_in_a_row


def save_checkpoint(
    folder: Path,
    progress: Progress,
    tensors: Mapping[str, Tensor],
    save_bundle: Callable[[Path], object],
    *,
    best: bool,
    data: DataRecord | None = None,
) -> Path:
    """Write the checkpoint of `progress`, with the shards that were staged for it, and point `last` at it.

    Args:
        folder: The run's `checkpoints/`.
        progress: How far the run has come.
        tensors: Training state, by name.
        save_bundle: Writes the bundle to the path it is given.
        best: Whether `best` shall point at it too.
        data: What the run is trained and measured on; None keeps no record.

    Raises:
        PlatformError: the disk is full, or shards of processes are missing; earlier checkpoints are intact, and nothing
            is left of this one.
    """
    folder.mkdir(exist_ok=True)
    name = checkpoint_name(folder, progress.step)
    final, temporary = folder / name, folder / f".{name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    with out_of_space_named(folder, f"saving step {progress.step}"), _removed_on_failure(temporary):
        save_bundle(temporary)
        save_file(dict(tensors), temporary / _TENSORS)
        shards = sorted(_staging(folder, progress).glob("shard-*.safetensors"))
        if len(shards) not in (0, progress.world_size):
            raise PlatformError(
                f"{folder}: step {progress.step} has shards of {len(shards)} processes, expected "
                f"{progress.world_size}; `output` must be a folder that all nodes share"
            )
        for shard in shards:
            os.replace(shard, temporary / shard.name)
        (temporary / _STATE).write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
        if data is not None:
            save_data_record(temporary, data)
        _flush(temporary)
        os.replace(temporary, final)
        # A run continues from `last`: if that moved first, a kill before the other would lose the best one.
        if best:
            link_checkpoint(folder / "best.rtool", name)
        link_checkpoint(folder / "last.rtool", name)
    return final


def stage_shard(folder: Path, progress: Progress, rank: int, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors that only this rank has where rank 0 finds them when it saves the checkpoint of `progress`."""
    staging = _staging(folder, progress)
    with out_of_space_named(folder, f"saving step {progress.step}"):
        staging.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), staging / f"shard-{rank:05d}.safetensors")


def load_shards(checkpoint: Path) -> list[dict[str, Tensor]]:
    """The shards in a checkpoint, of all ranks in their order; empty if no loss is sharded.

    Raises:
        InputError: there are more or fewer than the run had processes.
    """
    paths = sorted(checkpoint.glob("shard-*.safetensors"))
    processes = load_progress(checkpoint).world_size
    if len(paths) not in (0, processes):
        raise InputError(f"{checkpoint}: has {len(paths)} shards, expected one of each of {processes} processes")
    return [load_file(path) for path in paths]


def load_training_state(checkpoint: Path) -> tuple[Progress, dict[str, Tensor]]:
    """The training state in a checkpoint: the progress, and tensors by name.

    Raises:
        InputError: the folder is a plain bundle.
    """
    return load_progress(checkpoint), load_file(checkpoint / _TENSORS)


def load_progress(checkpoint: Path) -> Progress:
    """How far the run had come that wrote a checkpoint.

    Raises:
        InputError: the folder is a plain bundle, or its record is damaged.
    """
    path = checkpoint / _STATE
    if not path.is_file():
        raise InputError(f"{checkpoint}: no {_STATE}; this is a bundle, not a checkpoint to resume from")
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        progress = Progress(**values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error})") from error
    missing = sorted({field.name for field in fields(Progress)} - values.keys() - _ADDED)
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; another version of rtool wrote it, or it is damaged")
    return progress


def check_checkpoint(checkpoint: Path) -> None:
    """Refuse a checkpoint with a missing or damaged file; headers and lengths are checked, tensors not read.

    Raises:
        InputError: naming the file, and the newest other checkpoint of the run that is whole.
    """
    damage = _damage(checkpoint)
    if damage is None:
        return
    others = [path for path in reversed(_all(checkpoint.parent)) if path != checkpoint and _damage(path) is None]
    way_out = f"continue from the one before with --resume {others[0]}" if others else "start a new run"
    raise InputError(f"{damage}; {way_out}")


def prune_checkpoints(folder: Path, keep: int, progress: Progress) -> None:
    """Delete all but the newest `keep` checkpoints, the newest proven one and those that `last` and `best` point at."""
    kept = {(folder / link).resolve() for link in ("last.rtool", "best.rtool")}
    proven = _newest_proven(folder, progress)
    if proven is not None:
        kept.add(proven.resolve())
    for path in _all(folder)[:-keep]:
        if path.resolve() not in kept:
            _delete(path)
    clear_partial(folder)


def clear_partial(folder: Path) -> None:
    """Delete what a kill left half written or half deleted; the folder may be missing."""
    for pattern in _HIDDEN:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def go_back_to_proven(folder: Path, progress: Progress) -> Path | None:
    """Point `last` at the newest proven checkpoint, delete later ones except the best, and return it.

    Without a proven one, `last` is removed and None returned.
    """
    proven = _newest_proven(folder, progress)
    if proven is None:
        (folder / "last.rtool").unlink(missing_ok=True)
        return None
    link_checkpoint(folder / "last.rtool", proven.name)
    best = (folder / "best.rtool").resolve()
    for path in _all(folder):
        if _number(path) > _number(proven) and path.resolve() != best:
            _delete(path)
    return proven


def give_up_later(folder: Path, resumed: Path, measured: Mapping[int, float]) -> list[str]:
    """Delete the checkpoints later than the one from which a run is resumed.

    The one that `best` points at is renamed instead, and `best` points at the best of those that are left. After a kill
    in between, `last` is right and the next start does the rest.

    Args:
        folder: The run's `checkpoints/`.
        resumed: The checkpoint, which all processes have loaded: until then a later one may be needed in its place.
        measured: The chosen metric by step.

    Returns:
        One line for the log per checkpoint that was deleted or renamed.
    """
    link_checkpoint(folder / "last.rtool", os.path.relpath(resumed.resolve(), folder.resolve()))
    here = [_number(path) for path in _all(folder) if path.resolve() == resumed.resolve()]
    place = here[0] if here else (load_progress(resumed).step, 1)
    link = folder / "best.rtool"
    best, lines = link.resolve(), []
    for path in [path for path in _all(folder) if _number(path) > place]:
        if path.resolve() == best:
            aside = _free_name(folder, f"abandoned-{_number(path)[0]:08d}")
            os.replace(path, folder / aside)
            lines.append(f"{path.name}, the best until now, renamed {aside}")
        else:
            _delete(path)
            lines.append(f"{path.name} deleted")
    if not link.exists():
        left = [path for path in _all(folder) if _number(path)[0] in measured]
        if left:
            link_checkpoint(link, max(left, key=lambda path: measured[_number(path)[0]]).name)
        else:
            link.unlink(missing_ok=True)
    return lines


def best_step(folder: Path) -> int | None:
    """The step of the checkpoint that `best` points at; None if there is none."""
    link = folder / "best.rtool"
    return load_progress(link).step if link.exists() else None


def _newest_proven(folder: Path, progress: Progress) -> Path | None:
    return next((path for path in reversed(_all(folder)) if _number(path)[0] < progress.last_succeeded), None)


def _all(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(
        (path for path in folder.glob("step-*.rtool") if _NAME.fullmatch(path.name) and path.is_dir()), key=_number
    )


def _delete(checkpoint: Path) -> None:
    """Rename, then delete: a half deleted checkpoint must not keep its name."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.partial")
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def _number(checkpoint: Path) -> tuple[int, int]:
    """The step in a checkpoint's name, and which of several at that step it is."""
    _, step, *again = checkpoint.stem.split("-")
    return int(step), int(again[0]) if again else 1


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing; lengths and headers are read, no tensors."""
    try:
        progress = load_progress(checkpoint)
    except InputError as error:
        return str(error)
    shards = sorted(checkpoint.glob("shard-*.safetensors"))
    if len(shards) not in (0, progress.world_size):
        return f"{checkpoint}: has {len(shards)} shards, expected one of each of {progress.world_size} processes"
    for path in (checkpoint / _BUNDLE_TENSORS, checkpoint / _TENSORS, *shards):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path}: missing or damaged ({error})"
    return None


def checkpoint_name(folder: Path, step: int) -> str:
    """The name of a new checkpoint of this step."""
    return _free_name(folder, f"step-{step:08d}")


def _free_name(folder: Path, stem: str) -> str:
    """An unused name: a resumed run may reach the same step again, and must not overwrite its earlier checkpoint."""
    name, number = f"{stem}.rtool", 1
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}.rtool"
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


def link_checkpoint(link: Path, target: str) -> None:
    """Make `link` point at the checkpoint `target`, in one step."""
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
