"""Train an int8 network against its own float32 self, on images without labels: `rtool distil MODEL int8 DATA`.

1. Linear 1x1 convolutions are merged into the depthwise ones behind them, which is exact (`pointwise_merging`).
2. Channels are evened out over whole groups of layers (`channel_groups`), and every layer is quantised, with ranges
   measured on views of the images (`varied_views`), as by `rtool export --int8`.
3. The levels of weights are chosen so that layers' outputs change least (`weight_rounding`).
4. Weights, biases and step sizes learn the float32 embeddings through fake quantisation (`quantised_network`).
5. The levels go back into the same graph. It is measured on images that were not trained on, and must pass the gate.

Images should cover the cameras that the model will meet: ranges measured on some cut off what others show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ....converters.exporting.manifest import ExportResult
from ....converters.exporting.pipeline import export
from ....converters.precision.int8 import FEWEST_IMAGES, calibrated
from ....converters.precision.int8_compaction import compact_quantised
from ....converters.precision.pointwise_merging import merge_pointwise
from ....converters.records.preprocessing import Preprocessing
from ....converters.runtime.runners import OnnxRunner, run_in_batches
from ....errors import DataError, InputError
from ...data.decoding import read_pixels
from ...data.formats.unlabelled import open_unlabelled
from .quantised_network import QuantisedNetwork, quantised_network
from .varied_views import varied_views
from .weight_rounding import round_to_inputs

__all__ = ["Int8Training", "distil_int8", "train_int8", "train_network"]

Pixels = NDArray[np.uint8]
Report = Callable[[str], object]

_HELD_OUT = 0.2
"""Share of the images that are measured on instead of trained on."""
_WARM_UP = 20
_REPORTS = 10


@dataclass(frozen=True)
class Int8Training:
    """How an int8 network is trained."""

    steps: int = 300
    """Optimizer steps."""
    copies: int = 4
    """Copies of each image in other colours, light and places that are calibrated and trained on too."""
    batch: int = 16
    """Images per step; a model with a fixed batch keeps its own."""
    rate: float = 1e-5
    """Peak learning rate of weights and biases, in units of each channel's largest weight."""
    scale_rate: float = 3e-4
    """Peak learning rate of the logarithms of the step sizes of activations."""
    seed: int = 0
    """Seeds which images each step sees."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.copies < 0:
            raise InputError(
                f"int8: cannot train {self.steps} steps of {self.batch} images with {self.copies} copies of each; give "
                "positive numbers"
            )


def distil_int8(
    model: str | Path,
    data: str | Path,
    output: str | Path | None = None,
    *,
    images: int = 640,
    training: Int8Training | None = None,
    preprocessing: str | Preprocessing | None = None,
    min_cosine: float | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> ExportResult:
    """Write `model` in int8, every layer quantised, trained against its float32 self.

    Args:
        model: A model reference that can be exported.
        data: Images without labels: any folder, or a source as of `data.train`.
        output: The file to write; by default the model's name with `_int8.onnx`.
        images: How many images to use, spread over the data; a fifth of them is measured on, the others are trained on
            with their mirror images and copies in other colours (`varied_views`).
        training: Steps, rates and seed.
        preprocessing: Instead of the model's own: what `--preprocessing` takes.
        min_cosine: The gate, by default 0.99: the smallest cosine to the float32 embedding of an image measured on.
        overwrite: Replace a file that is already there.
        report: Called with lines on what is done.

    Raises:
        InputError: the model or an argument cannot be used.
        DataError: too few images, or over 1 % cannot be read.
        GateError: the gate is missed; nothing is written.
    """
    chosen = training or Int8Training()
    learned: list[NDArray[np.float32]] = []

    def measured(made: Preprocessing) -> Pixels:
        pixels = _read(data, made, images)
        every = round(1 / _HELD_OUT)
        held = np.arange(len(pixels)) % every == every - 1
        seen = pixels[~held]
        learned.append(varied_views(seen, made, copies=chosen.copies, seed=chosen.seed))
        unseen: Pixels = pixels[held]
        return unseen

    def quantise(float32: onnx.ModelProto) -> onnx.ModelProto:
        return train_int8(float32, learned[0], chosen, report)

    return export(
        model,
        output,
        int8=True,
        inputs=measured,
        quantiser=quantise,
        preprocessing=preprocessing,
        min_cosine=min_cosine,
        overwrite=overwrite,
    )


def train_int8(
    float32: onnx.ModelProto, images: NDArray[np.float32], training: Int8Training, report: Report | None = None
) -> onnx.ModelProto:
    """The int8 graph of a float32 one, trained on preprocessed images float32 [N, ...], at least 16.

    Raises:
        InputError: too few images, or a graph that cannot be quantised or trained.
    """
    said = report or _silent
    merged, pairs = merge_pointwise(float32)
    said(f"int8: {pairs} linear 1x1 convolutions merged into the depthwise ones behind them")
    with calibrated(merged, images, every_layer=True, exact=False) as quantiser:
        quantiser.check_float32_nodes(())
        network = quantised_network(quantiser.quantise(compact=False), quantiser.float32)
    runner = OnnxRunner(float32)
    wanted = run_in_batches(runner, images, training.batch)[0].reshape(len(images), -1)
    batch = runner.batch or training.batch
    rounded = round_to_inputs(network.module, torch.from_numpy(images), batch)
    said(f"int8: the levels of {rounded} of {len(network.layers)} weights chosen by the inputs of their layers")
    train_network(network, torch.from_numpy(images), torch.from_numpy(wanted), batch, training, said)
    return compact_quantised(network.export())


def train_network(
    network: QuantisedNetwork,
    images: torch.Tensor,
    wanted: torch.Tensor,
    batch: int,
    training: Int8Training,
    said: Report,
) -> None:
    """Adam on the root mean square of 1 - cosine, which weighs the worst images most, with a cosine schedule.

    Args:
        network: What learns.
        images: Preprocessed float32 [N, ...].
        wanted: Their float32 embeddings [N, D].
        batch: Images per step.
        training: Steps, rates and seed.
        said: Called with lines on how far it is.
    """
    changes, growths = network.parameters()
    groups = [{"params": changes, "lr": training.rate}, {"params": growths, "lr": training.scale_rate}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], betas=(0.9, 0.99))
    peaks = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(training.seed)
    for step in range(training.steps):
        rate = 0.5 * (1 + math.cos(math.pi * step / training.steps)) * min(1.0, (step + 1) / _WARM_UP)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        rows = torch.randint(len(images), (batch,), generator=generator)
        found = network.module(images[rows])
        found = found[0] if isinstance(found, tuple) else found
        missing = 1 - F.cosine_similarity(found.flatten(1), wanted[rows])
        optimizer.zero_grad()
        loss: torch.Tensor = (missing.square().mean() + 1e-12).sqrt()
        torch.autograd.backward(loss)
        optimizer.step()
        if (step + 1) % max(1, training.steps // _REPORTS) == 0:
            said(f"int8: step {step + 1} of {training.steps}, mean cosine to float32 {1 - missing.mean().item():.5f}")


def _read(data: str | Path, preprocessing: Preprocessing, images: int) -> Pixels:
    """At most `images` images spread over the data."""
    dataset = open_unlabelled(data)
    chosen = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).astype(np.int64)
    pixels = read_pixels(dataset.subset(chosen), preprocessing.resize).values
    fewest = math.ceil(FEWEST_IMAGES / (1 - _HELD_OUT)) + 1
    if len(pixels) < fewest:
        raise DataError(f"{dataset.name}: {len(pixels)} images; int8 needs at least {fewest}, better some hundreds")
    return pixels


def _silent(_line: str) -> None:
    return None
