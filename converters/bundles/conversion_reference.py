"""The outputs of an ONNX file on seeded inputs, with which a converted module is compared.

ONNX Runtime computes them; onnx's reference evaluator does where ONNX Runtime refuses the file although it is valid.
Where module and runtime differ, `runtime.judging` tells whose error it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...errors import GateError
from ..files.model_file import ModelFile
from ..records.preprocessing import Preprocessing
from ..records.record import TensorSpec
from ..runtime.double_precision import exact_outputs
from ..runtime.judging import judge
from ..runtime.parity import Parity, measure_parity
from ..runtime.probability_outputs import probability_outputs
from ..runtime.probes.given_probes import Probe, with_probes
from ..runtime.probes.open_sizes import closed_sizes
from ..runtime.reference_runner import ReferenceRunner, open_onnx, run_onnx
from ..runtime.runners import OnnxRunner, TorchRunner

__all__ = ["BatchParity", "Reference"]

_SMALL = 3_000_000
"""Parameters; a network up to this size, such as every OSNet, runs 16 images in at most a second on one core."""


@dataclass(frozen=True)
class BatchParity:
    """The module against the file on one seeded random batch."""

    batch: int
    parity: Parity
    oracle: str = "ONNX Runtime"
    """Who computed the file: "ONNX Runtime", or "onnx.reference" where ONNX Runtime refuses it."""
    reason: str = ""
    """Where they differ by more than the tolerance, what float64 says of it."""


@dataclass(frozen=True)
class _Sample:
    """One batch: the inputs of the file, in graph order, and the outputs that are expected for them."""

    batch: int
    inputs: tuple[NDArray[Any], ...]
    outputs: tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Reference:
    """A file in a runtime, and its outputs for seeded inputs."""

    name: str
    runner: OnnxRunner | ReferenceRunner
    samples: tuple[_Sample, ...]
    is_of_file: bool = True
    """Whether the outputs are those of the file; else those of a module with other weights."""

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
            InputError: neither ONNX Runtime nor onnx's reference evaluator can run it, or a probe does not fit.
        """
        runner = open_onnx(file, name=file.name, exact=True)
        is_small = sum(parameter.numel() for parameter in module.parameters()) <= _SMALL
        batches = (runner.batch,) if runner.batch else (1, 2, 3, 16) if is_small else (1, 2, 3)
        specs = closed_sizes(runner.inputs, preprocessing)
        inputs = [
            tuple(with_probes(runner.inputs, [_random(spec, batch) for spec in specs], probes or {}))
            for batch in batches
        ]
        runner, outputs = run_onnx(runner, inputs)
        samples = tuple(_Sample(*sample) for sample in zip(batches, inputs, outputs, strict=True))
        return cls(file.name, runner, samples)

    def following(self, module: nn.Module) -> Self:
        """A reference with the same inputs and the outputs of `module`, which has other weights than the file."""
        samples = (replace(sample, outputs=self._run(module, sample.inputs)) for sample in self.samples)
        return replace(self, samples=tuple(samples), is_of_file=False)

    def measure(self, module: nn.Module, tolerance: float, what: str) -> tuple[BatchParity, ...]:
        """Compare `module`, which has the record of the conversion, with the expected outputs.

        Raises:
            GateError: it differs by more than `tolerance`, as largest relative error.
        """
        results = []
        runner = TorchRunner(module)
        probabilities = probability_outputs(self.runner.file.outline.graph)
        for sample in self.samples:
            inputs = self._for_module(runner, sample.inputs)
            verdict = judge(
                sample.outputs,
                runner.run(*inputs),
                tolerance,
                exact_reference=partial(self._exact, sample),
                exact_candidate=partial(exact_outputs, runner, inputs),
                probabilities=probabilities,
            )
            oracle = self.runner.oracle if self.is_of_file else "the module before"
            if not verdict.agrees:
                raise GateError(
                    f"{self.name}: {what}, the module differs from {oracle} by {verdict.parity.max_rel:.3g} relative "
                    f"at batch {sample.batch} (allowed {tolerance:g}; {verdict.reason}); nothing was written, report "
                    "this model, or allow more with --tolerance"
                )
            results.append(BatchParity(sample.batch, verdict.parity, oracle, verdict.reason))
        return tuple(results)

    def _exact(self, sample: _Sample) -> tuple[NDArray[Any], ...] | None:
        """The outputs in float64."""
        return exact_outputs(self.runner, sample.inputs) if self.is_of_file else None

    def difference(self, module: nn.Module) -> tuple[BatchParity, ...]:
        """How far `module`, whose weights may be others than the file's, is from the expected outputs."""
        return tuple(
            BatchParity(
                sample.batch, measure_parity(sample.outputs, self._run(module, sample.inputs)), self.runner.oracle
            )
            for sample in self.samples
        )

    def _run(self, module: nn.Module, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the module on the inputs of the file; it may use only some of them."""
        runner = TorchRunner(module)
        return runner.run(*self._for_module(runner, inputs))

    def _for_module(self, runner: TorchRunner, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        names = [spec.name for spec in self.runner.inputs]
        return [inputs[names.index(spec.name)] for spec in runner.inputs]


def _random(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Seeded input for one spec whose sizes are numbers, but for the batch."""
    shape = [dim if isinstance(dim, int) else batch for dim in spec.shape]
    generator = np.random.default_rng(0)
    if spec.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)
