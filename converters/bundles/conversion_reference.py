"""The outputs of an ONNX file in ONNX Runtime on seeded inputs, with which a converted module is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...errors import GateError
from ..files.model_file import ModelFile
from ..records.preprocessing import Preprocessing
from ..records.record import TensorSpec
from ..runtime.given_probes import Probe, with_probes
from ..runtime.open_sizes import closed_sizes
from ..runtime.parity import Parity, measure_parity
from ..runtime.runners import OnnxRunner, TorchRunner

__all__ = ["BatchParity", "Reference"]

_SMALL = 3_000_000
"""Parameters; a network up to this size, such as every OSNet, runs 16 images in at most a second on one core."""


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

    @classmethod
    def of(
        cls,
        file: ModelFile,
        module: nn.Module,
        *,
        preprocessing: Preprocessing | None = None,
        probes: Mapping[str, Probe] | None = None,
    ) -> Self:
        """Run `file` at batch 1, 2 and 3, for a small network also 16; or at its fixed batch.

        Open sizes are closed as `closed_sizes` does with `preprocessing`; `probes` replace random inputs by name.

        Raises:
            InputError: ONNX Runtime cannot load or run it, or a probe does not fit.
        """
        runner = OnnxRunner(file, name=file.name, exact=True)
        is_small = sum(parameter.numel() for parameter in module.parameters()) <= _SMALL
        batches = (runner.batch,) if runner.batch else (1, 2, 3, 16) if is_small else (1, 2, 3)
        samples = []
        for batch in batches:
            specs = closed_sizes(runner.inputs, preprocessing)
            inputs = with_probes(runner.inputs, [_random(spec, batch) for spec in specs], probes or {})
            samples.append(_Sample(batch, inputs, runner.run(*inputs)))
        return cls(file.name, runner, tuple(samples))

    def following(self, module: nn.Module) -> Self:
        """A reference with the same inputs and the outputs of `module`, which has other weights than the file."""
        samples = (replace(sample, outputs=self._run(module, sample.inputs)) for sample in self.samples)
        return replace(self, samples=tuple(samples))

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


def _random(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Seeded input for one spec whose sizes are numbers, but for the batch."""
    shape = [dim if isinstance(dim, int) else batch for dim in spec.shape]
    generator = np.random.default_rng(0)
    if spec.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)
