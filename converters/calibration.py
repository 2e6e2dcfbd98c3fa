"""Run calibration images through a network and watch what its layers write. Streamed, and resumable.

Nothing is kept but running statistics per channel, so any number of images fits in memory. With a state file the
statistics are saved as they grow; a second run with the same batches in the same order goes on where the first
stopped. The state file is removed when the last batch is in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import InputError
from .affine import Layer, output_channels
from .channel_statistics import ChannelStatistics
from .record import ConversionRecord

__all__ = ["Batch", "Calibration", "Observation", "calibrate"]

Batch = Tensor | tuple[Tensor, ...]
"""What the network is called with: one tensor, or one per graph input."""

FEWEST_IMAGES = 2
_SAVE_EVERY = 16
"""Batches between two saves of the state."""


@dataclass
class Observation:
    """What one layer wrote: statistics per channel, the rank of its output, and whether its maps are 1 x 1."""

    statistics: ChannelStatistics
    rank: int = 0
    single_position: bool = False


@dataclass
class Calibration:
    """Observations by module path, over `images` images in `batches` batches; `last` is the last batch."""

    layers: dict[str, Observation] = field(default_factory=dict)
    images: int = 0
    batches: int = 0
    last: tuple[Tensor, ...] = ()


def calibrate(
    module: nn.Module, layers: Mapping[str, Layer], batches: Iterable[Batch], *, state: Path | None = None
) -> Calibration:
    """Observe `layers` (by path) of `module` in eval mode over `batches`; modes and gradients are left as found.

    Raises:
        InputError: no images, a batch the model cannot take, non-finite activations, or a state file of another
            model.
    """
    calibration = Calibration({path: Observation(_empty(layer)) for path, layer in layers.items()})
    if state is not None and state.exists():
        _load(calibration, state)
    done = calibration.batches
    with _evaluating(module), _watching(layers, calibration), torch.no_grad():
        for index, batch in enumerate(batches):
            inputs = batch if isinstance(batch, tuple) else (batch,)
            calibration.last = inputs
            if index < done:
                continue
            _run(module, inputs)
            calibration.images += len(inputs[0])
            calibration.batches += 1
            if state is not None and calibration.batches % _SAVE_EVERY == 0:
                _save(calibration, state)
    _check(calibration)
    if state is not None:
        state.unlink(missing_ok=True)
    return calibration


def _empty(layer: Layer) -> ChannelStatistics:
    return ChannelStatistics.empty(output_channels(layer))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, mode in training.items():
            child.training = mode


@contextmanager
def _watching(layers: Mapping[str, Layer], calibration: Calibration) -> Iterator[None]:
    def watch(path: str, layer: Layer) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            observation = calibration.layers[path]
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


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    record = getattr(module, "meta", {}).get("rtool")
    if isinstance(record, ConversionRecord):
        _check_shapes(record, inputs)
    try:
        module(*inputs)
    except (RuntimeError, ValueError) as error:
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


def _check(calibration: Calibration) -> None:
    if calibration.images == 0:
        raise InputError("calibration: no images; name a folder or data set with some, 256 or more are good")
    if calibration.images < FEWEST_IMAGES:
        raise InputError(
            f"calibration: {calibration.images} image is too few for a variance; give at least {FEWEST_IMAGES}, "
            "256 or more are good"
        )
    for path, observation in calibration.layers.items():
        finite = observation.statistics.mean.isfinite() & observation.statistics.squares.isfinite()
        if not bool(finite.all()):
            channel = int((~finite).nonzero()[0])
            raise InputError(
                f"calibration: layer {path!r} writes non-finite values in channel {channel}; "
                "the weights or the images hold NaN or infinity"
            )


def _save(calibration: Calibration, state: Path) -> None:
    tensors = {"progress": torch.tensor([calibration.images, calibration.batches])}
    for path, observation in calibration.layers.items():
        statistics = observation.statistics
        tensors[f"{path}/mean"], tensors[f"{path}/squares"] = statistics.mean, statistics.squares
        flags = [statistics.count, observation.rank, int(observation.single_position)]
        tensors[f"{path}/counts"] = torch.tensor(flags)
    partial = state.with_name(state.name + ".partial")
    save_file(tensors, partial)
    os.replace(partial, state)


def _load(calibration: Calibration, state: Path) -> None:
    try:
        with safe_open(state, framework="pt") as file:
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{state}: not a calibration state ({error}); remove it to start afresh") from error
    expected = {f"{path}/{part}" for path in calibration.layers for part in ("mean", "squares", "counts")}
    if names != expected | {"progress"}:
        raise InputError(f"{state}: the calibration state of another model; remove it to start afresh")
    calibration.images, calibration.batches = (int(number) for number in tensors["progress"])
    for path, observation in calibration.layers.items():
        count, rank, single = (int(number) for number in tensors[f"{path}/counts"])
        mean, squares = tensors[f"{path}/mean"], tensors[f"{path}/squares"]
        if mean.shape != observation.statistics.mean.shape:
            raise InputError(f"{state}: layer {path!r} has other channels; remove it to start afresh")
        observation.statistics = ChannelStatistics(count, mean, squares)
        observation.rank, observation.single_position = rank, bool(single)
