"""Calibration: run images through a network and measure the outputs of its layers, per channel. Resumable.

Only running statistics and one digest per image are stored, so any number of images fits in memory. A batch counts
completely or, when the run is interrupted in it, not at all. For a model with a fixed batch, images are regrouped into
batches of that size.

With a state file the statistics are saved regularly and when the run is interrupted; a second run with the same model
and the same batches in the same order continues there. The state file is removed after the last batch, and when the
images or the model turn out to be unusable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import InputError, RtoolError
from ..records.image_digest import row_digests
from ..records.record import ConversionRecord, record_of
from ..runtime.batches.batch_by_shapes import fixed_batch_by_shapes
from ..runtime.eval_mode import in_eval_mode
from ..runtime.runners import TORCH_REFUSALS
from .affine import Layer, output_channels
from .calibration_state import load_state, model_digest, save_state
from .channel_statistics import ChannelStatistics
from .observations import Calibration, Observation

__all__ = ["FEWEST_IMAGES", "TOLERATED_UNCERTAINTY", "Batch", "calibrate"]

Batch = Tensor | tuple[Tensor, ...]
"""What the network is called with: one tensor, or one per graph input."""

FEWEST_IMAGES = 8
"""Fewest images. A layer with one value per image, such as a Linear, has a variance with the relative standard error
sqrt(2 / (n - 1)), which is over 0.5 for fewer."""
TOLERATED_UNCERTAINTY = 0.1
"""Largest standard error of a mean, in standard deviations; with one value per image that takes 100 images."""
_SAVE_EVERY = 4
"""Number of batches between two saves of the state."""


def calibrate(
    module: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Batch],
    *,
    state: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Observe `layers` (by path) of `module` in eval mode over `batches`; modes and gradients are left as found.

    A model that takes batches of one size only gets those; images that do not fill the last one are left out.
    `progress` is called with the number of images seen, after every batch.

    Raises:
        InputError: too few images, a batch the model cannot take, non-finite activations, or a state file of another
            model or of other images.
    """
    digest = model_digest(module) if state is not None else ""
    calibration = Calibration({path: Observation(_empty(layer)) for path, layer in layers.items()})
    if state is not None and state.exists():
        load_state(calibration, state, digest)
    fixed = _only_batch(module)
    run = _Run(calibration, state, digest, calibration.batches, calibration.images)
    try:
        with in_eval_mode(module), torch.no_grad():
            for inputs in _in_batches(batches, fixed):
                run.take(module, layers, inputs)
                if progress is not None and run.is_new:
                    progress(run.calibration.images)
        run.check_complete()
        _check(run.calibration, fixed)
    except RtoolError:
        if state is not None and not run.resumed:
            state.unlink(missing_ok=True)
        raise
    except BaseException:
        run.save_if_grown()
        raise
    if state is not None:
        state.unlink(missing_ok=True)
    return run.calibration


@dataclass
class _Run:
    """A calibration in progress, and its state file."""

    calibration: Calibration
    state: Path | None
    digest: str
    """Of the model."""
    done: int
    """Number of batches that were measured before an interruption; they are only compared now."""
    resumed: int
    """Number of images in those batches."""
    index: int = 0
    seen: int = 0

    @property
    def is_new(self) -> bool:
        """Whether the last batch was measured now, not before the interruption."""
        return self.index > self.done

    def take(self, module: nn.Module, layers: Mapping[str, Layer], inputs: tuple[Tensor, ...]) -> None:
        """Measure one batch, or compare it where it was measured before the interruption.

        Raises:
            InputError: the model cannot take it, or it is another one than before the interruption.
        """
        digests = row_digests([tensor.numpy(force=True) for tensor in inputs])
        self.index, self.seen = self.index + 1, self.seen + len(digests)
        before = self.calibration
        largest = inputs if len(inputs[0]) >= _size(before.largest) else before.largest
        if self.index <= self.done:
            _check_same(before, digests, self.seen, self.state)
            before.largest = largest
            return
        observed: dict[str, Observation] = {}
        with _watching(layers, observed):
            _run(module, inputs)
        # One assignment: an interruption comes before this batch counts, or after, never between its layers.
        self.calibration = Calibration(
            {path: observation.followed_by(observed.get(path)) for path, observation in before.layers.items()},
            before.images + len(inputs[0]),
            before.batches + 1,
            before.digests + digests,
            largest,
        )
        if self.calibration.batches % _SAVE_EVERY == 0:
            self.save_if_grown()

    def save_if_grown(self) -> None:
        """Write the state file, if there is one and batches were measured now."""
        if self.state is not None and self.calibration.batches > self.done:
            save_state(self.calibration, self.state, self.digest)

    def check_complete(self) -> None:
        """Check that all images from before the interruption were given again.

        Raises:
            InputError: there were fewer.
        """
        if self.seen < self.resumed:
            raise InputError(
                f"{self.state}: was begun with more images: it holds {self.resumed}, and only {self.seen} were given; "
                "give those again, or remove it to start afresh"
            )


def _only_batch(module: nn.Module) -> int | None:
    record = record_of(module)
    if not isinstance(module, fx.GraphModule) or record is None:
        return None
    return fixed_batch_by_shapes(module, record.inputs)


def _empty(layer: Layer) -> ChannelStatistics:
    return ChannelStatistics.empty(output_channels(layer))


@contextmanager
def _watching(layers: Mapping[str, Layer], observed: dict[str, Observation]) -> Iterator[None]:
    """Collect the outputs of the layers in `observed`, with hooks that the context removes."""

    def watch(path: str, layer: Layer) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            observation = observed.setdefault(path, Observation(_empty(layer)))
            observation.rank = output.ndim
            observation.single_position = inputs[0].ndim > 2 and inputs[0].shape[2:].numel() == 1
            if output.ndim == 2 or not isinstance(layer, nn.Linear):
                observation.statistics.update(output)

        return layer.register_forward_hook(hook)

    handles = [watch(path, layer) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_batches(batches: Iterable[Batch], size: int | None) -> Iterator[tuple[Tensor, ...]]:
    """Batches as tuples, regrouped to exactly `size` images where it is given; an incomplete last one is left out.

    Raises:
        InputError: a batch is not made of tensors.
    """
    waiting: tuple[Tensor, ...] = ()
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        if not all(isinstance(tensor, Tensor) for tensor in inputs):
            kind = next(type(tensor).__name__ for tensor in inputs if not isinstance(tensor, Tensor))
            raise InputError(
                f"calibrate holds {kind}, not tensors: give batches of what the network takes, float32 [N, C, H, W]; "
                "`rtool onnx2torch --calibrate` reads a folder of images"
            )
        if size is None:
            yield inputs
            continue
        waiting = tuple(torch.cat(pair) for pair in zip(waiting, inputs, strict=True)) if waiting else inputs
        while len(waiting[0]) >= size:
            yield tuple(tensor[:size] for tensor in waiting)
            waiting = tuple(tensor[size:] for tensor in waiting)


def _size(inputs: tuple[Tensor, ...]) -> int:
    return len(inputs[0]) if inputs else 0


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    record = record_of(module)
    if record is not None:
        _check_shapes(record, inputs)
    # Called as `module(...)`, a converted module that raises prints its generated code on the terminal.
    call = module.forward if isinstance(module, fx.GraphModule) else module
    try:
        call(*inputs)
    except TORCH_REFUSALS as error:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        raise InputError(f"calibration: the model cannot take a batch of shape {shapes}: {error}") from error


def _check_shapes(record: ConversionRecord, inputs: tuple[Tensor, ...]) -> None:
    for spec, tensor in zip(record.inputs, inputs, strict=False):
        fixed = [(axis, size) for axis, size in enumerate(spec.shape) if axis > 0 and isinstance(size, int)]
        if tensor.ndim != len(spec.shape) or any(tensor.shape[axis] != size for axis, size in fixed):
            raise InputError(
                f"calibration: input {spec.name!r} of {record.source} is {list(spec.shape)}, the images come as "
                f"{list(tensor.shape)}; set the preprocessing's size to the model's"
            )


def _check_same(calibration: Calibration, digests: list[bytes], seen: int, state: Path | None) -> None:
    """Check that a batch which was calibrated before the interruption has the same images again."""
    if calibration.digests[seen - len(digests) : seen] != digests:
        raise InputError(f"{state}: was begun with other images; give those again, or remove it to start afresh")


def _check(calibration: Calibration, batch: int | None) -> None:
    if calibration.images == 0 and batch is not None:
        raise InputError(f"calibration: the model supports batches of {batch} only, and there are fewer images")
    if calibration.images == 0:
        raise InputError("calibration: no images; give a folder or data set with images, 256 or more are good")
    if calibration.images < FEWEST_IMAGES:
        number = f"{calibration.images} images are" if calibration.images > 1 else "1 image is"
        raise InputError(
            f"calibration: {number} too few for a variance; give at least {FEWEST_IMAGES}, 256 or more are good"
        )
    for path, observation in calibration.layers.items():
        finite = observation.statistics.mean.isfinite() & observation.statistics.squares.isfinite()
        if not bool(finite.all()):
            channel = int((~finite).nonzero()[0])
            raise InputError(
                f"calibration: layer {path!r} writes non-finite values in channel {channel}; "
                "the weights or the images hold NaN or infinity"
            )
