"""The outputs of an ONNX file in ONNX Runtime on seeded inputs, with which a converted module is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from numpy.typing import NDArray
from torch import nn

from ...errors import GateError
from ..files.model_file import ModelFile
from ..runtime.batch_proof import BatchImages, batched
from ..runtime.file_batch import find_file_batch
from ..runtime.parity import Parity, measure_parity
from ..runtime.runners import OnnxRunner, TorchRunner
from .open_batch import SettledBatch, settled

__all__ = ["BatchParity", "Reference"]


@dataclass(frozen=True)
class BatchParity:
    """The module against ONNX Runtime on one seeded random batch."""

    batch: int
    parity: Parity


@dataclass(frozen=True)
class _Sample:
    """One batch: the inputs of the file, in graph order, and the outputs that are expected for them."""

    batch: int
    inputs: tuple[NDArray[Any], ...]
    outputs: tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Reference:
    """A file in ONNX Runtime, and its outputs for seeded inputs."""

    name: str
    runner: OnnxRunner
    samples: tuple[_Sample, ...]
    batch: SettledBatch
    """The batch that the file is right at."""

    @classmethod
    def of(cls, file: ModelFile, tolerance: float) -> Self:
        """Run `file` at batch 1, 2 and 3, for a small network also 16; or at its fixed batch.

        Raises:
            InputError: ONNX Runtime cannot load or run it, or it mixes the images of every batch.
        """
        runner = OnnxRunner(file, name=file.name, exact=True)
        if runner.batch is not None:
            images = BatchImages.of(runner.inputs, runner.batch)
            sample = _Sample(runner.batch, images.arrays, runner.run(*images.arrays))
            return cls(file.name, runner, (sample,), SettledBatch(runner.batch))
        watched = _Watched(runner)
        finding = find_file_batch(file, watched, tolerance=tolerance)
        if not watched.samples:  # the file states its proof
            images = BatchImages.of(runner.inputs, 3)
            for size in (1, 2, 3):
                watched.run(*images.rows(range(size)))
        batch = settled(file.name, finding)
        if batch.batch is None and finding.proof is None:
            watched.run(*BatchImages.of(runner.inputs, 1).arrays)  # raises what ONNX Runtime says
        return cls(file.name, runner, tuple(watched.samples.values()), batch)

    def following(self, module: nn.Module) -> Self:
        """A reference with the same inputs and the outputs of `module`, which has other weights than the file."""
        samples = (replace(sample, outputs=self._run(module, sample.inputs)) for sample in self.samples)
        return replace(self, samples=tuple(samples))

    def ends(self) -> Self:
        """The same with the smallest and the largest batch only: for a module that was compared at all of them."""
        ordered = sorted(self.samples, key=lambda sample: sample.batch)
        return replace(self, samples=(ordered[0], *ordered[1:][-1:]))

    def measure(self, module: nn.Module, tolerance: float, what: str) -> tuple[BatchParity, ...]:
        """Compare `module`, which has the record of the conversion, with the expected outputs.

        Raises:
            GateError: it differs by more than `tolerance`, as largest relative error.
        """
        results = []
        for sample in self.samples:
            parity = measure_parity(sample.outputs, self._run(module, sample.inputs))
            if not parity.max_rel <= tolerance:
                raise GateError(
                    f"{self.name}: {what}, the module differs from ONNX Runtime by {parity.max_rel:.3g} relative at "
                    f"batch {sample.batch} (allowed {tolerance:g}); nothing was written, report this model"
                )
            results.append(BatchParity(sample.batch, parity))
        return tuple(results)

    def _run(self, module: nn.Module, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the module on the inputs of the file; it may use only some of them."""
        runner = TorchRunner(module)
        names = [spec.name for spec in self.runner.inputs]
        return runner.run(*(inputs[names.index(spec.name)] for spec in runner.inputs))


class _Watched:
    """A runner that keeps the first run of every batch as a sample."""

    def __init__(self, runner: OnnxRunner) -> None:
        self.name, self.inputs, self.outputs, self.batch = runner.name, runner.inputs, runner.outputs, runner.batch
        self.samples: dict[int, _Sample] = {}
        self._runner, self._cut = runner, batched(runner.inputs)

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """As the runner."""
        outputs = self._runner.run(*arrays)
        size = next((len(array) for array, cut in zip(arrays, self._cut, strict=True) if cut), 1)
        self.samples.setdefault(size, _Sample(size, arrays, outputs))
        return outputs
