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
from typing import NamedTuple

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
from .occlusion.visible_files import VisibleFiles

__all__ = ["Batch", "EpochSamples", "TrainingPixels", "iterate_batches", "lost_workers_named"]

Key = tuple[int, int]
"""Position in the epoch's plan, and image number."""


class Read(NamedTuple):
    """One image of the training data."""

    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    number: int
    """Of the image in the data set."""
    unreadable: tuple[int, ...]
    """The numbers of images in whose place it stands."""


class Sample(NamedTuple):
    """One augmented image."""

    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    label: int
    unreadable: tuple[int, ...]
    views: tuple[NDArray[np.uint8], ...]
    """The same image at the sizes of other models."""
    visible: NDArray[np.uint8] | None
    """uint8 [H, W], see `Batch.visible`."""


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
    visible: Tensor | None = None
    """float32 [n, 1, H, W], 1 where an image shows the face and 0 where something hides it; None where nothing is drawn
    on images (`augment.mask`) and no files say it (`data.visible`)."""

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while the CPU continues."""
        views = tuple(view.pin_memory() for view in self.views)
        visible = None if self.visible is None else self.visible.pin_memory()
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory(), self.unreadable, views, visible)


@dataclass(frozen=True)
class TrainingPixels:
    """The pixels of training images: `values` uint8 [N, H, W, C] in memory, or decoded from `dataset` at each use."""

    dataset: Dataset
    resize: Resize
    values: NDArray[np.uint8] | None
    views: Views | None = None
    """Where several models see the images: `resize` and `values` are at their canvas then."""
    visible: VisibleFiles | None = None
    """What files say about which pixels show the face."""

    def read_own(self, index: int) -> NDArray[np.uint8]:
        """Image number `index`, or the one in its place, as the model that learns sees it: uint8 [H, W, C]."""
        image = self.read(index).pixels
        return image if self.views is None else self.views.own_view(image)

    def read(self, index: int) -> Read:
        """Image number `index`, or the next readable one: of its identity first, then in the order of the data set.

        Raises:
            DataError: no image of the identity can be read, and the unreadable ones are more than are tolerated.
        """
        if self.values is not None:
            return Read(self.values[index], index, ())
        try:
            return Read(read_image(self.dataset, self.resize, index), index, ())
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
                return Read(pixels, candidate, tuple(unreadable))
        raise DataError(f"{self.dataset.name}: no image can be read")


@dataclass(frozen=True)
class EpochSamples(TorchDataset[Sample]):
    """The augmented samples of one epoch, by key."""

    pixels: TrainingPixels
    augment: AugmentConfig
    fill: tuple[float, ...]
    seed: int
    epoch: int
    points: NDArray[np.float32] | None = None
    """Eyes, nose and corners of the mouth as shares of width and height, [5, 2], where images have none of their own;
    None where nothing is drawn that needs them."""

    def __getitem__(self, key: Key) -> Sample:
        position, index = key
        image, read, unreadable = self.pixels.read(index)
        rng = sample_generator(self.seed, self.epoch, position)
        passed_over = list(unreadable)

        def other(rng: np.random.Generator) -> NDArray[np.uint8]:
            pixels, _, lost = self.pixels.read(int(rng.integers(len(self.pixels.dataset))))
            passed_over.extend(lost)
            return pixels

        known = None if self.pixels.visible is None else self.pixels.visible.read(read, *image.shape[:2])
        seen, visible = augment(
            image, self.augment, self.fill, rng, other=other, visible=known, points=self._landmarks(read)
        )
        views: tuple[NDArray[np.uint8], ...] = ()
        if self.pixels.views is not None:
            seen, views = self.pixels.views.of(seen)
            visible = None if visible is None else self.pixels.views.own_visibility(visible)
        label = int(self.pixels.dataset.identities[read])
        return Sample(seen, label, tuple(passed_over), views, visible)

    def _landmarks(self, index: int) -> NDArray[np.float32] | None:
        """Where eyes, nose and mouth of an image are, [5, 2]; None where nobody asks."""
        own = self.pixels.dataset.landmarks
        if not self.augment.mask or self.augment.mask_points is not None or own is None or np.isnan(own[index, 0, 0]):
            return self.points
        points: NDArray[np.float32] = own[index]
        return points

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
    visible = [sample.visible for sample in samples if sample.visible is not None]
    return Batch(
        torch.from_numpy(np.stack([sample.pixels for sample in samples])),
        torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        tuple(index for sample in samples for index in sample.unreadable),
        tuple(torch.from_numpy(np.stack(each)) for each in zip(*(sample.views for sample in samples), strict=True)),
        torch.from_numpy(np.stack(visible)[:, None]).float().div_(255) if visible else None,
    )
