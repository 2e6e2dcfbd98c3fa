"""Random networks and the files that torch's exporters make of them: what `random_exports` converts.

Network number K of a seed is the same in every run: a stem, two to five blocks, a pool and a head, from
`random_blocks`; one in four takes a camera number, a mask or a second image as well, and one in twenty mixes the images
of a batch, which no rewriting of the batch may hide. Weights are random and no two of them equal.
"""

from __future__ import annotations

import io
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_blocks import BLOCKS, Shuffle, WindowAttention, activation
from .random_pools import POOLS, AttentionPool, ClassToken

__all__ = ["EXPORTERS", "Export", "RandomNetwork", "draw", "export", "inputs_of"]

EXPORTERS: tuple[tuple[Literal["torchscript", "dynamo"], int], ...] = (
    *(("torchscript", opset) for opset in range(11, 21)),
    *(("dynamo", opset) for opset in range(18, 24)),
)
_CAMERAS = 6
_SDPA = 14
"""The first opset at which the TorchScript exporter writes scaled dot-product attention."""
_EXTRAS = ("camera", "mask", "second image")


@dataclass(frozen=True)
class Export:
    """How a network becomes a file; `batch` None stands for a dynamic one."""

    exporter: Literal["torchscript", "dynamo"]
    opset: int
    batch: int | None

    @property
    def name(self) -> str:
        """As in tables."""
        return f"{self.exporter}-{self.opset}"


class RandomNetwork(nn.Module):
    """Images [N, 3, H, W], and perhaps an extra input, to one or two embeddings [N, D]."""

    def __init__(self, seed: int, index: int) -> None:
        super().__init__()
        rng = random.Random(f"{seed}-{index}")
        torch.manual_seed(rng.getrandbits(32))
        self.size = (rng.choice((12, 16, 17, 24)), rng.choice((8, 11, 16)))
        channels = rng.choice((4, 6, 8, 9))
        self.extra = rng.choice(_EXTRAS) if rng.random() < 0.25 else ""
        self.mixes = rng.random() < 0.05
        self.stem = nn.Conv2d(3, channels, rng.choice((3, 5)), rng.choice((1, 2)), rng.choice((0, 1, 2)))
        self.act = activation(rng, channels)
        self.blocks = nn.Sequential(*(rng.choice(BLOCKS)(rng, channels) for _ in range(rng.randint(2, 5))))
        self.pool = rng.choice(POOLS)(rng, channels)
        self.cameras = nn.Embedding(_CAMERAS, channels)
        features = rng.choice((5, 8))
        heads: tuple[nn.Module, ...] = (
            nn.Linear(channels, features),
            nn.Sequential(nn.Linear(channels, features, bias=False), nn.BatchNorm1d(features)),
            nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, features)),
            nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, features), nn.Tanh()),
        )
        self.head = rng.choice(heads)
        self.normalise, self.two_outputs = rng.random() < 0.4, rng.random() < 0.2
        self._make_distinct()

    @property
    def description(self) -> str:
        """The parts, in order."""
        parts = [type(part).__name__ for part in (*self.blocks, self.pool)]
        kinds = [*parts, *([self.extra] if self.extra else []), *(["mixes images"] if self.mixes else [])]
        return f"{self.size[0]}x{self.size[1]}: {', '.join(kinds)}"

    def _make_distinct(self) -> None:
        """No two weights equal (exporters merge equal ones), and running statistics as of a trained network."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            for name, buffer in self.named_buffers():
                if name.endswith("running_mean"):
                    buffer.add_(0.1 * torch.randn_like(buffer))
                elif name.endswith("running_var"):
                    buffer.mul_(0.5 + torch.rand_like(buffer))

    def forward(self, images: Tensor, extra: Tensor | None = None) -> Any:
        """One embedding, or an embedding and its features."""
        x = self.stem(images)
        if extra is not None and self.extra == "second image":
            x = x + self.stem(extra)
        x = self.act(x)
        if extra is not None and self.extra == "mask":
            x = x * F.interpolate(extra, size=x.shape[2:], mode="nearest")
        pooled = self.pool(self.blocks(x))
        if extra is not None and self.extra == "camera":
            pooled = pooled + self.cameras(extra)
        if self.mixes:
            pooled = pooled - pooled.mean(0, keepdim=True)
        embedding = self.head(pooled)
        if self.normalise:
            embedding = F.normalize(embedding)
        return (embedding, pooled) if self.two_outputs else embedding


def draw(seed: int, index: int) -> tuple[RandomNetwork, Export]:
    """Network and export number `index` of a seed; the network is in eval mode."""
    rng = random.Random(f"export {seed}-{index}")
    exporter, opset = EXPORTERS[index % len(EXPORTERS)]
    batch = rng.choice((1, 1, 2, 4)) if rng.random() < 0.6 else None
    for attempt in range(100):  # a map that shrank to nothing
        network = RandomNetwork(seed, index if not attempt else index + attempt * 1_000_003).eval()
        if exporter == "torchscript":
            _spell_out(network, attention=opset < _SDPA)
        try:
            with torch.no_grad():
                network(*inputs_of(network, 2))
        except (RuntimeError, ValueError):
            continue
        return network, Export(exporter, opset, batch)
    raise RuntimeError(f"random networks: none of a hundred for {seed}, {index} runs")


def _spell_out(module: nn.Module, *, attention: bool) -> None:
    """Write by hand what the TorchScript exporter has no operator for: channel shuffle, at old opsets attention."""
    for part in module.modules():
        if isinstance(part, Shuffle):
            part.own = True
        elif attention and isinstance(part, WindowAttention):
            part.fused = False
        elif attention and isinstance(part, AttentionPool | ClassToken):
            part.own = True


def inputs_of(network: RandomNetwork, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Seeded inputs in graph order."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, *network.size, generator=generator)
    if network.extra == "camera":
        return images, torch.randint(0, _CAMERAS, (batch,), generator=generator)
    if network.extra == "mask":
        return images, torch.rand(batch, 1, *network.size, generator=generator).round()
    if network.extra == "second image":
        return images, torch.randn(batch, 3, *network.size, generator=generator)
    return (images,)


def export(network: RandomNetwork, how: Export) -> onnx.ModelProto:
    """The file; raises whatever the exporter does where it cannot write this network."""
    example = inputs_of(network, how.batch or 2)
    inputs = ["images", "extra"][: len(example)]
    outputs = ["embedding", "features"][: 1 + network.two_outputs]
    file = io.BytesIO()
    options: dict[str, Any] = {"input_names": inputs, "output_names": outputs, "opset_version": how.opset}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            if how.exporter == "torchscript":
                if how.batch is None:
                    options["dynamic_axes"] = {name: {0: "batch"} for name in (*inputs, *outputs)}
                torch.onnx.export(network, example, file, dynamo=False, **options)  # type: ignore[arg-type]
            else:
                if how.batch is None:
                    options["dynamic_shapes"] = _dynamic(inputs)
                torch.onnx.export(network, example, file, dynamo=True, verbose=False, **options)  # type: ignore[arg-type]
    finally:
        logging.disable(level)
    return onnx.load_from_string(file.getvalue())


@contextmanager
def _silent() -> Iterator[None]:
    """The TorchScript exporter prints its graph from C++ when it fails; dynamo reports progress."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def _dynamic(inputs: Sequence[str]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)
