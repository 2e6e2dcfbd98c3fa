"""The outputs of an ONNX file on seeded inputs, with which a converted module is compared.

ONNX Runtime computes them; onnx's reference evaluator does where ONNX Runtime refuses the file although it is valid.
Where module and runtime differ, `runtime.judging` tells whose error it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from numpy.typing import NDArray
from torch import nn

from ...errors import GateError
from ..files.model_file import ModelFile
from ..records.preprocessing import Preprocessing
from ..runtime.batches.batch_proof import BatchImages, batched
from ..runtime.batches.file_batch import find_file_batch
from ..runtime.double_precision import exact_outputs
from ..runtime.judging import judge
from ..runtime.parity import Parity, measure_parity
from ..runtime.probability_outputs import probability_outputs
from ..runtime.probes.given_probes import Probe
from ..runtime.probes.open_sizes import closed_sizes
from ..runtime.probes.probing import probe_inputs
from ..runtime.reference_runner import ReferenceRunner, open_onnx, run_onnx
from ..runtime.runners import OnnxRunner, TorchRunner
from .open_batch import SettledBatch, settled

__all__ = ["BatchParity", "Reference"]


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
    batch: SettledBatch
    """The batch that the file is right at."""
    is_of_file: bool = True
    """Whether the outputs are those of the file; else those of a module with other weights."""

    @classmethod
    def of(
        cls,
        file: ModelFile,
        tolerance: float,
        *,
        preprocessing: Preprocessing | None = None,
        probes: Mapping[str, Probe] | None = None,
    ) -> Self:
        """Run `file` at batch 1, 2 and 3, for a small network also 16; or at its fixed batch.

        Open sizes are closed as `closed_sizes` does with `preprocessing`; `probes` replace random inputs by name.

        Raises:
            InputError: neither ONNX Runtime nor onnx's reference evaluator can run it, a probe does not fit, or it
                mixes the images of every batch.
        """
        watched = _Watched(open_onnx(file, name=file.name, exact=True))
        examples = probe_inputs(closed_sizes(watched.inputs, preprocessing, probes), 1)
        if watched.batch is not None:
            watched.run(*BatchImages.of(watched.inputs, watched.batch, examples, probes=probes).arrays)
            return cls(file.name, watched.runner, watched.kept(), SettledBatch(watched.batch))
        finding = find_file_batch(file, watched, examples, tolerance=tolerance, probes=probes)
        if not watched.samples:  # the file states its proof
            images = BatchImages.of(watched.inputs, 3, examples, probes=probes)
            for size in (1, 2, 3):
                watched.run(*images.rows(range(size)))
        batch = settled(file.name, finding)
        if batch.batch is None and finding.proof is None:
            watched.run(*BatchImages.of(watched.inputs, 1, examples, probes=probes).arrays)  # raises what it says
        return cls(file.name, watched.runner, watched.kept(), batch)

    def following(self, module: nn.Module) -> Self:
        """A reference with the same inputs and the outputs of `module`, which has other weights than the file."""
        samples = (replace(sample, outputs=self._run(module, sample.inputs)) for sample in self.samples)
        return replace(self, samples=tuple(samples), is_of_file=False)

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


class _Watched:
    """A runner that keeps the first run of every batch as a sample.

    Where ONNX Runtime loads a valid file and then cannot run it, onnx's reference evaluator takes its place.
    """

    def __init__(self, runner: OnnxRunner | ReferenceRunner) -> None:
        self.name, self.inputs, self.outputs, self.batch = runner.name, runner.inputs, runner.outputs, runner.batch
        self.samples: dict[int, _Sample] = {}
        self.runner, self._cut = runner, batched(runner.inputs)

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """As the runner."""
        if self.samples:
            outputs = self.runner.run(*arrays)
        else:
            self.runner, outputs = run_onnx(self.runner, lambda chosen: chosen.run(*arrays))
        size = next((len(array) for array, cut in zip(arrays, self._cut, strict=True) if cut), 1)
        self.samples.setdefault(size, _Sample(size, arrays, outputs))
        return outputs

    def kept(self) -> tuple[_Sample, ...]:
        """The samples, one per batch."""
        return tuple(self.samples.values())
