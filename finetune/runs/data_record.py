"""What a run was trained and measured on, kept with its checkpoints: a run resumed on other data would not be the same.

The order of the classes decides which row of a head is whose, and the held-out people must never have been trained on.
Both follow from the labels and the seed, so they are compared before a resumed run changes anything. So is the content
of up to 1,000 images of each data set, evenly spread: folders that were swapped have the same names and other people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...converters.records.json_text import parse_json
from ...errors import ConfigError, InputError
from ..data.dataset import Dataset
from ..data.image_files import UnreadableImageError

__all__ = [
    "ACCEPTABLE",
    "DataRecord",
    "check_data",
    "content_digest",
    "difference_noted",
    "load_data_record",
    "save_data_record",
]

ACCEPTABLE = ("data", "seed", "evaluation")
"""Changes that `--resume-with` can accept."""

_FILE = "data.json"
_NAMED = 3
_SAMPLED = 1000


@dataclass(frozen=True)
class DataRecord:
    """The data of a run, from labels and the content of some images."""

    seed: int
    source: str
    """Digest of the training data set as it was read, and of the share held out."""
    classes: tuple[str, ...]
    """The first image of each class, in the order of the head's rows."""
    held_out: tuple[str, ...]
    """The first image of each identity that is measured."""
    evaluation: str
    """Digest of the evaluation set, where it is another than the training data, and of how it is measured."""
    content: str = ""
    """`content_digest` of the training data; empty in checkpoints of versions that kept none."""
    measured_content: str = ""
    """Likewise of the evaluation set, where it is another than the training data."""

    @classmethod
    def of(
        cls,
        train: Dataset,
        held_out: Sequence[Dataset],
        *,
        seed: int,
        source: Iterable[object],
        evaluation: Iterable[object],
        contents: tuple[str, str] = ("", ""),
    ) -> DataRecord:
        """Record what is trained on and what is measured.

        Args:
            train: The images trained on.
            held_out: The sets that are measured.
            seed: The seed of the run.
            source: What the training data came from: data sets, and numbers and texts.
            evaluation: Likewise, what the metrics depend on beside the held-out people.
            contents: `content_digest` of what the training data came from, and of the evaluation set.
        """
        measured = tuple(name for dataset in held_out for name in _first_images(dataset))
        return cls(seed, _digest(source), _first_images(train), measured, _digest(evaluation), *contents)


def save_data_record(checkpoint: Path, record: DataRecord) -> None:
    """Write the record into the folder of a checkpoint."""
    (checkpoint / _FILE).write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")


def load_data_record(checkpoint: Path) -> DataRecord | None:
    """The record of a checkpoint; None for one of a version that kept none.

    Raises:
        InputError: it is damaged.
    """
    path = checkpoint / _FILE
    if not path.is_file():
        return None
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        return DataRecord(**{**values, **{name: tuple(values[name]) for name in ("classes", "held_out")}})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error})") from error


def check_data(run: Path, before: DataRecord, now: DataRecord, accepted: Collection[str]) -> tuple[str, ...]:
    """The names of the changes between two starts of a run, all of them accepted.

    Args:
        run: The run, for the message.
        before: The record of the checkpoint.
        now: The record of this start.
        accepted: Names of `ACCEPTABLE`.

    Raises:
        ConfigError: something changed that is not accepted, or the number of classes, which a head cannot follow.
    """
    changes = {}
    if before.seed != now.seed:
        changes["seed"] = f"seed: {run} was trained with {before.seed}, got {now.seed}"
    if before.source != now.source:
        changes["data"] = f"data: the training images of {run}, or data.holdout, have changed"
    if before.evaluation != now.evaluation:
        changes["evaluation"] = f"evaluation: {run} was measured on other images or in another way"
    if before.content and before.source == now.source and before.content != now.content:
        changes["data"] = f"data: training images of {run} have other content under the same names"
    if (
        before.measured_content
        and before.evaluation == now.evaluation
        and before.measured_content != now.measured_content
    ):
        changes["evaluation"] = f"evaluation: images that {run} was measured on have other content under the same names"
    if not changes and (before.classes, before.held_out) != (now.classes, now.held_out):
        changes["data"] = f"data: the people that {run} trains on or holds out have changed"
    if len(before.classes) != len(now.classes):
        raise ConfigError(
            f"data.train: {run} was trained on {len(before.classes)} identities, got {len(now.classes)}, and its heads "
            "have a row for each; put the data back, or start a new run from model.reference=RUN"
        )
    for name, message in changes.items():
        if name not in accepted:
            raise ConfigError(
                f"{message}{_consequences(before, now)}; put it back, start a new run, or accept it with "
                f"--resume-with {','.join(changes)}"
            )
    return tuple(changes)


def difference_noted(checkpoint: Path, now: DataRecord) -> str | None:
    """A line for the log of a run that is resumed with other data; None where they are the same."""
    before = load_data_record(checkpoint)
    if before is None:
        return "the checkpoint keeps no record of its data; they were not compared"
    if before == now:
        return None
    return "the data, the seed or the evaluation have changed, as accepted: the best metric starts again"


def content_digest(datasets: Iterable[Dataset]) -> str:
    """SHA-256 over what up to 1,000 evenly spread images of each data set are stored as; empty for no data set."""
    digest, any_set = hashlib.sha256(), False
    for dataset in datasets:
        any_set = True
        positions = np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLED)).astype(np.int64)
        for position in positions.tolist():
            try:
                stored = dataset.images.stored(position)
            except UnreadableImageError:
                stored = b""
            digest.update(hashlib.sha256(stored).digest())
    return digest.hexdigest() if any_set else ""


def _consequences(before: DataRecord, now: DataRecord) -> str:
    """What the changes mean for the classes and the held-out people."""
    found = []
    trained = {_person(name) for name in before.classes}
    leaked = [name for name in now.held_out if _person(name) in trained]
    if leaked:
        found.append(f"{len(leaked)} identities that were trained on would be held out ({_some(leaked)})")
    moved = [f"{a}, now {b}" for a, b in zip(before.classes, now.classes, strict=True) if a != b]
    if moved:
        found.append(f"{len(moved)} of {len(now.classes)} classes were other identities ({moved[0]})")
    return f": {'; '.join(found)}" if found else ""


def _person(name: str) -> str:
    """The folder of an image, which is its identity in most layouts, else its name."""
    return name.rpartition("/")[0] or name


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _first_images(dataset: Dataset) -> tuple[str, ...]:
    known = np.flatnonzero(dataset.identities >= 0)
    _, first = np.unique(dataset.identities[known], return_index=True)
    return tuple(dataset.names[int(index)] for index in known[first])


def _digest(parts: Iterable[object]) -> str:
    """SHA-256 over labels, names and texts."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Dataset):
            arrays = (part.identities, part.cameras, part.is_query, part.pairs)
            for array in arrays:
                digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
            for name in part.names:
                digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
        else:
            digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()
