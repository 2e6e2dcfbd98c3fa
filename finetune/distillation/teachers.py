"""Teachers: models that run beside the student in every process, and never learn.

A teacher is not part of the learner: the optimizer, DDP and checkpoints do not know it. It computes in eval mode, in
float32 and without gradient, on the same augmented images as the student, at its own size and with its own
preprocessing. Converted ones run in torch on the run's device; others in ONNX Runtime or on their server; `ema` is the
student's moving average.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ...converters.bundles.open_batch import settle_batch
from ...converters.bundles.reference import Model, load_model
from ...converters.preprocessing.decision import PreprocessingDecision, decide_preprocessing
from ...converters.records.preprocessing import Preprocessing
from ...converters.zoo.registry import ZOO
from ...errors import ConfigError, InputError
from ..config.distillation import TeacherConfig
from ..embedding.embedders import Embedder, open_embedder
from ..embedding.model_digest import digest_of_model
from ..network.learner import embedding_of
from ..network.networks import images_to_tensor
from .teacher_outputs import FeatureTap, TeacherOutputs

__all__ = ["AverageTeacher", "RunnerTeacher", "Teacher", "TorchTeacher", "black_images", "open_teacher"]


class Teacher(Protocol):
    """One opened teacher."""

    def outputs(self, pixels: Tensor) -> TeacherOutputs:
        """What it says of pixels uint8 [N, H, W, C] of its size, on the run's device."""
        ...


@dataclass(frozen=True)
class TorchTeacher:
    """A module, converted or of torch, on the run's device."""

    name: str
    module: nn.Module
    decision: PreprocessingDecision
    device: torch.device
    config: TeacherConfig
    dtype: torch.dtype
    """Of its input: uint8 where the graph normalises the pixels itself."""
    digest: Callable[[], str]
    """What it computes with, see `embedding.model_digest`."""
    tap: FeatureTap | None = None

    @property
    def output(self) -> int:
        """Number of the output that is the embedding."""
        return self.config.output

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> TeacherOutputs:
        """See `Teacher`."""
        images = images_to_tensor(pixels, self.decision.preprocessing, self.device, False).to(self.dtype)
        with _float32(), nullcontext() if self.tap is None else self.tap.watching():
            found = self.module(images)
        logits = None if self.config.logits is None else self._output(found, self.config.logits)
        maps = {} if self.tap is None else self.tap.taken()
        return TeacherOutputs(self._output(found, self.config.output), logits, maps)

    def _output(self, found: Tensor | tuple[Tensor, ...], number: int) -> Tensor:
        try:
            return embedding_of(found, number).float()
        except InputError as error:
            reason = str(error).removeprefix("model.")
            raise ConfigError(f"distil.teachers: {self.name}: {reason}") from error


@dataclass(frozen=True)
class RunnerTeacher:
    """A model in ONNX Runtime or on a Triton server."""

    name: str
    decision: PreprocessingDecision
    device: torch.device
    embedder: Embedder
    logits: Embedder | None

    @property
    def output(self) -> int:
        """Number of the output that is the embedding."""
        return self.embedder.output

    def digest(self) -> str:
        """What it computes with, see `embedding.model_digest`."""
        return self.embedder.digest()

    def outputs(self, pixels: Tensor) -> TeacherOutputs:
        """See `Teacher`."""
        array = pixels.cpu().numpy()
        embeddings = torch.from_numpy(self.embedder.embed(array)).to(self.device)
        logits = None if self.logits is None else torch.from_numpy(self.logits.embed(array)).to(self.device)
        return TeacherOutputs(embeddings, logits)


class AverageTeacher:
    """The student's moving average, in a copy of the student that holds it."""

    def __init__(
        self, backbone: nn.Module, tensors: dict[str, Tensor], preprocessing: Preprocessing, output: int
    ) -> None:
        """Follow `tensors`, the average of `backbone` by tensor name, which its owner moves."""
        self._twin = copy.deepcopy(backbone).eval().requires_grad_(False)
        self._pairs = [
            (value, tensors[name])
            for name, value in (*self._twin.named_parameters(), *self._twin.named_buffers())
            if name in tensors
        ]
        self._preprocessing, self._output = preprocessing, output

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> TeacherOutputs:
        """See `Teacher`."""
        torch._foreach_copy_([own for own, _ in self._pairs], [average for _, average in self._pairs])
        images = images_to_tensor(pixels, self._preprocessing, self._pairs[0][0].device, False)
        with _float32():
            found = embedding_of(self._twin(images), self._output)
        return TeacherOutputs(found.float())


def open_teacher(config: TeacherConfig, device: torch.device, maps: Sequence[str] = ()) -> TorchTeacher | RunnerTeacher:
    """Open one teacher and try it on two black images.

    Args:
        config: The teacher, not `ema`.
        device: Where it computes, unless it is served.
        maps: Names of its modules whose outputs are wanted as well.

    Raises:
        InputError: there is no such model, it has random weights, cannot be converted or reached, or nothing tells its
            preprocessing.
        ConfigError: it has no module of a name in `maps`, or does not run in torch.
    """
    served = config.reference.startswith("triton://")
    if not served and config.runtime == "torch":
        return _in_torch(config, device, maps)
    if maps:
        raise ConfigError(
            f"distil.terms: features needs the modules of {config.reference}, which runs outside of torch"
        )
    if config.weights is not None:
        raise ConfigError(f"distil.teachers: weights are loaded in torch, and {config.reference} does not run there")
    if not served and Path(config.reference).suffix != ".onnx":
        raise ConfigError(f"distil.teachers: {config.reference}: runtime onnxruntime runs .onnx files; use torch")
    embedder = _embedder(config, config.output, device)
    logits = None if config.logits is None else _embedder(config, config.logits, device)
    return RunnerTeacher(embedder.name, embedder.decision, device, embedder, logits)


def _embedder(config: TeacherConfig, output: int, device: torch.device) -> Embedder:
    size, stated = config.size, config.preprocessing
    return open_embedder(config.reference, output=output, device=str(device), preprocessing=stated, size=size)


def black_images(preprocessing: Preprocessing, count: int = 2) -> Tensor:
    """Images uint8 [count, H, W, C] on which the sizes of outputs are found."""
    return torch.zeros(count, preprocessing.height, preprocessing.width, preprocessing.channels, dtype=torch.uint8)


def _in_torch(config: TeacherConfig, device: torch.device, maps: Sequence[str]) -> TorchTeacher:
    if config.reference in ZOO and config.weights is None:
        raise InputError(
            f"distil.teachers: {config.reference} is an architecture with random weights, of which nothing can be "
            "learned; give the weights, or a trained model"
        )
    model = load_model(config.reference, config.weights)
    settled = settle_batch(model)
    if settled.batch is not None:
        raise InputError(
            f"{model.name}: a teacher with a fixed batch of {settled.batch}; give runtime: onnxruntime, or make it "
            "dynamic with `rtool onnx2torch model.onnx --batch dynamic`"
        )
    decision = decide_preprocessing(replace(model.evidence(), label=model.name), config.preprocessing, config.size)
    digest = partial(digest_of_model, model)
    module = model.module.eval().requires_grad_(False).to(device)
    tap = FeatureTap(module, maps, f"distil.terms: features of {model.name}") if maps else None
    return TorchTeacher(model.name, module, decision, device, config, _input_dtype(model), digest, tap)


def _input_dtype(model: Model) -> torch.dtype:
    spec = model.inputs[0] if model.inputs else None
    return torch.uint8 if spec is not None and spec.dtype == "uint8" else torch.float32


@contextmanager
def _float32() -> Iterator[None]:
    """No autocast, and no TensorFloat-32 in convolutions, which would cost three digits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
