"""Batches of augmented training images in the order of a plan, made in this process or in workers.

Pixels come from memory or are decoded at each use. An image that cannot be read is replaced by another one, of the same
identity if there is one, so that all ranks have full batches; its number is passed on and counted.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ...errors import DataError, PlatformError, RtoolError
from ..config.config import AugmentConfig
from ..processes.child_processes import serve_parent, signals_held
from .augment.views import Views
from .augmentation import augment, sample_generator
from .dataset import Dataset
from .decoding import Resize, check_unreadable, read_image
from .image_files import UnreadableImageError

__all__ = ["Batch", "EpochSamples", "TrainingPixels", "iterate_batches", "lost_workers_named"]

Key = tuple[int, int]
"""Position in the epoch's plan, and image number."""

Read = tuple[NDArray[np.uint8], int, tuple[int, ...]]
"""Pixels uint8 [H, W, C], label, and the numbers of images in whose place it stands."""

Sample = tuple[NDArray[np.uint8], int, tuple[int, ...], tuple[NDArray[np.uint8], ...]]
"""The same of an augmented image, and its views at the sizes of other models."""

_LOST = re.compile(r"DataLoader worker \(pid.*\) (?:is killed by signal: ([\w ]+)\.|exited unexpectedly(.*))")
"""torch's message about a worker that ended: with the name of a signal, an exit code, or neither."""
_OUT_OF_MEMORY = "the machine may be out of memory; lower data.workers or data.memory_gb"
_LACK_OF_MEMORY: dict[str | None, str] = {
    signal.strsignal(signal.SIGKILL): f"was killed (signal 9); {_OUT_OF_MEMORY}",
    signal.strsignal(signal.SIGBUS): "found no shared memory; make /dev/shm larger, or lower data.workers",
    None: f"ended unexpectedly; {_OUT_OF_MEMORY}",
}
"""The reason, by the name of the signal that ended a worker; None if torch does not know it."""


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [n, H, W, C], labels int64 [n], and the numbers of images that could not be read."""

    pixels: Tensor
    labels: Tensor
    unreadable: tuple[int, ...]
    views: tuple[Tensor, ...] = ()
    """The same images as teachers of other sizes see them, each uint8 [n, H', W', C']."""

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while the CPU continues."""
        views = tuple(view.pin_memory() for view in self.views)
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory(), self.unreadable, views)


@dataclass(frozen=True)
class TrainingPixels:
    """The pixels of training images: `values` uint8 [N, H, W, C] in memory, or decoded from `dataset` at each use."""

    dataset: Dataset
    resize: Resize
    values: NDArray[np.uint8] | None
    views: Views | None = None
    """Where several models see the images: `resize` and `values` are at their canvas then."""

    def read_own(self, index: int) -> NDArray[np.uint8]:
        """Image number `index`, or the one in its place, as the model that learns sees it: uint8 [H, W, C]."""
        image = self.read(index)[0]
        return image if self.views is None else self.views.own_view(image)

    def read(self, index: int) -> Read:
        """Image number `index`, or the next readable one: of its identity first, then in the order of the data set.

        Raises:
            DataError: no image of the identity can be read, and the unreadable ones are more than are tolerated.
        """
        labels = self.dataset.identities
        if self.values is not None:
            return self.values[index], int(labels[index]), ()
        try:
            return read_image(self.dataset, self.resize, index), int(labels[index]), ()
        except UnreadableImageError:
            return self._replacement(index)

    def _replacement(self, index: int) -> Read:
        """The image in place of `index`. Searched only when needed, because that reads the labels of all images."""
        labels, count = self.dataset.identities, len(self.dataset)
        ahead = (np.arange(count) + index) % count
        alike = labels[ahead] == labels[index]
        unreadable = [index]
        for candidate in np.concatenate([ahead[alike], ahead[~alike]])[1:].tolist():
            if labels[candidate] != labels[index]:
                check_unreadable(self.dataset.name, (self.dataset.names[i] for i in unreadable), count)
            try:
                pixels = read_image(self.dataset, self.resize, candidate)
            except UnreadableImageError:
                unreadable.append(candidate)
            else:
                return pixels, int(labels[candidate]), tuple(unreadable)
        raise DataError(f"{self.dataset.name}: no image can be read")


@dataclass(frozen=True)
class EpochSamples(TorchDataset[Sample]):
    """The augmented samples of one epoch, by key."""

    pixels: TrainingPixels
    augment: AugmentConfig
    fill: tuple[float, ...]
    seed: int
    epoch: int

    def __getitem__(self, key: Key) -> Sample:
        position, index = key
        image, label, unreadable = self.pixels.read(index)
        rng = sample_generator(self.seed, self.epoch, position)
        passed_over = list(unreadable)

        def other(rng: np.random.Generator) -> NDArray[np.uint8]:
            pixels, _, lost = self.pixels.read(int(rng.integers(len(self.pixels.dataset))))
            passed_over.extend(lost)
            return pixels

        seen = augment(image, self.augment, self.fill, rng, other=other)
        views: tuple[NDArray[np.uint8], ...] = ()
        if self.pixels.views is not None:
            seen, views = self.pixels.views.of(seen)
        return seen, label, tuple(passed_over), views

    def __getitems__(self, keys: list[Key]) -> list[Sample] | RtoolError:
        """A batch in a worker process. An error is returned, for torch would lose its message if it were raised."""
        try:
            return [self[key] for key in keys]
        except RtoolError as error:
            return error


@dataclass(frozen=True)
class _BatchKeys:
    """The keys of a plan's batches from row `first` on, made one batch at a time."""

    plan: NDArray[np.int64]
    columns: slice | NDArray[np.int64]
    first: int

    def __len__(self) -> int:
        return len(self.plan) - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        width = self.plan.shape[1]
        columns = np.arange(width)[self.columns].tolist()
        for step in range(self.first, len(self.plan)):
            yield [(step * width + column, int(self.plan[step, column])) for column in columns]


def iterate_batches(
    samples: EpochSamples,
    plan: NDArray[np.int64],
    columns: slice | NDArray[np.int64],
    workers: int,
    *,
    first: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches of augmented images, one per row of a plan.

    Args:
        samples: The images of the epoch.
        plan: Image numbers int64 [steps, global batch].
        columns: The columns whose images this process makes.
        workers: Worker processes; 0 makes batches in this one.
        first: The row to begin with.
        pin: Put batches into page-locked memory, from which copies to a GPU do not block.

    Raises:
        DataError: too many images cannot be read.
        PlatformError: a worker ended unexpectedly.
    """
    keys = _BatchKeys(plan, columns, first)
    if workers == 0:
        made = (_collate([samples[key] for key in batch]) for batch in keys)
        return (batch.pin_memory() for batch in made) if pin else made
    # Its own generator: the default would draw from the training process's, and a resumed run would differ.
    loader = DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate_or_pass,
        generator=torch.Generator(),
        worker_init_fn=serve_parent,
        pin_memory=pin,
    )
    with signals_held():
        return _raising(iter(loader))


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Turn the loss of a batch worker into a `PlatformError`, within the context.

    torch watches its workers in a signal handler, so its error is raised from whatever code runs at that moment; the
    context must therefore contain all the work between two batches.

    Raises:
        PlatformError: a worker was killed for lack of memory, or ended for an unknown reason.
    """
    try:
        yield
    except RuntimeError as error:
        # Code that waits for a batch raises a new error, with the signal in its cause.
        found = [match for text in (error, error.__cause__) if (match := _LOST.search(str(text)))]
        if not found:
            raise
        ended = next((match[1] or match[2] for match in found if match[1] or match[2]), None)
        if ended not in _LACK_OF_MEMORY:  # a crash that has nothing to do with memory
            raise
        raise PlatformError(f"a batch worker {_LACK_OF_MEMORY[ended]}, and continue with --resume auto") from error


def _raising(batches: Iterator[Batch | RtoolError]) -> Iterator[Batch]:
    try:
        for batch in batches:
            if isinstance(batch, RtoolError):
                # The traceback would keep the workers alive, and collecting it would wait seconds for them.
                del batches
                raise batch
            yield batch
    except (ConnectionError, EOFError) as error:
        if str(error).startswith("Caught "):  # raised in a worker that is alive
            raise
        # The sockets of a killed process are closed before torch notices that it is dead.
        raise PlatformError(f"a batch worker {_LACK_OF_MEMORY[None]}, and continue with --resume auto") from error


def _collate_or_pass(samples: Sequence[Sample] | RtoolError) -> Batch | RtoolError:
    return samples if isinstance(samples, RtoolError) else _collate(samples)


def _collate(samples: Sequence[Sample]) -> Batch:
    return Batch(
        torch.from_numpy(np.stack([image for image, _, _, _ in samples])),
        torch.tensor([label for _, label, _, _ in samples], dtype=torch.int64),
        tuple(index for _, _, unreadable, _ in samples for index in unreadable),
        tuple(torch.from_numpy(np.stack(each)) for each in zip(*(views for _, _, _, views in samples), strict=True)),
    )
