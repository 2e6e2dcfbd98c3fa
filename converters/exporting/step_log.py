"""The measured steps of an export; each compares the outputs of the current model with those of the module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import GateError
from ..runtime.double_precision import exact_outputs
from ..runtime.judging import Exact, judge, unknown
from ..runtime.nonsense import not_finite
from ..runtime.parity import Parity, measure_parity
from ..runtime.reference_runner import ReferenceRunner, open_onnx, run_onnx
from ..runtime.runners import OnnxRunner, Runner, run_in_batches

__all__ = ["ExportStep", "StepLog", "rows_of", "typed", "unit_length"]

_BATCH = 16


@dataclass(frozen=True)
class ExportStep:
    """One step: what it did, how far the outputs are from the module's, and the tolerance."""

    name: str
    detail: str
    max_abs: float
    max_rel: float
    min_cosine: float
    rank_agreement: float
    gate: str


@dataclass(frozen=True)
class StepLog:
    """Collects steps; `expected` are the module's outputs for `inputs`, one array each. Only `steps` grows."""

    inputs: tuple[NDArray[Any], ...]
    expected: tuple[NDArray[Any], ...]
    steps: list[ExportStep] = field(default_factory=list)
    exact: Exact = unknown
    """Gives the module's outputs in float64, which tell whose error a difference is."""
    probabilities: tuple[int, ...] = ()
    """Positions of outputs that a Sigmoid or Softmax gives."""
    batch: int | None = None
    """The batch that a graph with an open one is right at; None for any."""
    source_error: Callable[[], float] = float
    """How far the source graph's own outputs are from float64, see `known_error` of `judge`."""

    def check(
        self,
        name: str,
        outputs: Sequence[NDArray[Any]],
        *,
        max_rel: float | None = None,
        min_cosine: float | None = None,
        detail: str = "",
        exact: Exact = unknown,
    ) -> Parity:
        """Measure `outputs` and record the step; `exact` gives them in float64.

        Raises:
            GateError: a tolerance is missed, or a value is NaN or infinite.
        """
        if nonsense := not_finite(outputs, ()):
            raise GateError(f"export step '{name}': {'; '.join(nonsense)}")
        gates, reason = [], ""
        if max_rel is None:
            parity = measure_parity(self.expected, outputs)
        else:
            verdict = judge(
                self.expected,
                outputs,
                max_rel,
                exact_reference=self.exact,
                exact_candidate=exact,
                probabilities=self.probabilities,
                known_error=self.source_error,
            )
            parity, reason = verdict.parity, verdict.reason
            gates.append(
                (
                    f"max relative error {parity.max_rel:.3g}",
                    f"<= {max_rel:g}{' in float64' if reason else ''}",
                    verdict.agrees,
                )
            )
        if min_cosine is not None:
            gates.append((f"min cosine {parity.min_cosine:.8f}", f">= {min_cosine:g}", parity.min_cosine >= min_cosine))
        detail = "; ".join(filter(None, (detail, reason)))
        missed = [f"{value}, must be {bound}" for value, bound, held in gates if not held]
        if missed:
            raise GateError(
                f"export step '{name}': {'; '.join(missed)} (against the module, {detail or 'on its inputs'})"
            )
        gate = ", ".join(f"{value.rsplit(' ', 1)[0]} {bound}" for value, bound, _ in gates)
        self.steps.append(
            ExportStep(name, detail, parity.max_abs, parity.max_rel, parity.min_cosine, parity.rank_agreement, gate)
        )
        return parity

    def check_model(
        self,
        name: str,
        model: onnx.ModelProto,
        *,
        max_rel: float | None = None,
        min_cosine: float | None = None,
        detail: str = "",
    ) -> Parity:
        """`check` the outputs of `model` in ONNX Runtime; in onnx.reference, where that refuses a valid file."""
        runner = open_onnx(model, name=name, exact=True)
        runner.batch = runner.batch or self.batch
        inputs = typed(runner, self.inputs)
        runner, outputs = run_onnx(runner, lambda chosen: run_in_batches(chosen, inputs, _BATCH))
        if isinstance(runner, ReferenceRunner):
            detail = "; ".join(filter(None, (detail, f"computed by {runner.oracle}, ONNX Runtime refuses the file")))
        exact = partial(exact_outputs, runner, inputs, batch=_BATCH)
        return self.check(name, outputs, max_rel=max_rel, min_cosine=min_cosine, detail=detail, exact=exact)

    def check_batches(self, name: str, model: onnx.ModelProto, sizes: Sequence[int], *, max_rel: float) -> None:
        """Check `model` at several batch sizes, without recording a step.

        Where there are fewer inputs than a batch needs, they are repeated.

        Raises:
            GateError: it misses at one of them.
        """
        runner = open_onnx(model, name=name, exact=True)
        count = max((len(array) for array in self.inputs if array.ndim), default=0)
        for size in sizes:
            rows = [rows_of(array, size, count) for array in self.inputs]
            runner, got = run_onnx(runner, partial(_run, rows))
            expected = [rows_of(output, max(size, count), count) for output in self.expected]
            # One row may be all but zero: errors count relative to the outputs of all inputs, as in every step.
            verdict = judge(
                expected,
                [_with_rows(*pair) for pair in zip(got, expected, strict=True)],
                max_rel,
                exact_reference=partial(self._exact_rows, max(size, count), count),
                exact_candidate=partial(_exact_candidate, runner, rows, expected),
                probabilities=self.probabilities,
                known_error=self.source_error,
            )
            if not verdict.agrees:
                raise GateError(
                    f"export step '{name}': max relative error {verdict.parity.max_rel:.3g} at batch {size}, "
                    f"must be <= {max_rel:g}{f' ({verdict.reason})' if verdict.reason else ''}"
                )

    def _exact_rows(self, size: int, count: int) -> list[NDArray[Any]] | None:
        exact = self.exact()
        return None if exact is None else [rows_of(output, size, count) for output in exact]


def _exact_candidate(
    runner: Runner, rows: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]
) -> list[NDArray[Any]] | None:
    exact = exact_outputs(runner, rows)
    return None if exact is None else [_with_rows(*pair) for pair in zip(exact, expected, strict=True)]


def _run(arrays: Sequence[NDArray[Any]], runner: Runner) -> tuple[NDArray[Any], ...]:
    return runner.run(*arrays)


def _with_rows(rows: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    """`rows`, followed by the later rows of `whole`."""
    return np.concatenate([rows, whole[len(rows) :]]) if rows.ndim else rows


def rows_of(array: NDArray[Any], size: int, count: int) -> NDArray[Any]:
    """`size` rows of `array`, repeated where it has fewer; all of it where it does not have `count` rows."""
    if not array.ndim or len(array) != count:
        return array
    return array[np.arange(size) % count]


def typed(runner: OnnxRunner | ReferenceRunner, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The inputs of the module, rounded to the input dtypes of the file."""
    types = [spec.dtype for spec in runner.inputs]
    return [array.astype(dtype, copy=False) for array, dtype in zip(arrays, types, strict=False)]


def unit_length(outputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Every matrix of floats with rows of L2 norm 1 (rows of zeros stay), as `embed_preprocessing` makes them."""
    return tuple(
        output / np.maximum(np.linalg.norm(output, axis=1, keepdims=True), 1e-12)
        if output.ndim == 2 and output.dtype.kind == "f"
        else output
        for output in outputs
    )
