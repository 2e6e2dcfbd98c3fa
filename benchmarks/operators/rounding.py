"""`rtool ops --ulp`: the rounding error of each converted operator, measured against float64, beside WebNN's budget.

The inputs are those of ONNX's node cases, moved a little so that their last bits are not zero; seeded. The same numbers
go through the module in float32 and through the module of the same graph in float64, whose results ONNX's conformance
cases hold (`make bench`). A unit in the last place (ULP) is the distance between float32 numbers at the exact result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InputError, nearest
from .budgets import Budget, budget_of
from .example import Example, double_module_of, module_of
from .examples import examples_by_operator
from .moving import held_inputs, moved

__all__ = ["REASONS", "RoundingRow", "RoundingTable", "rounding_errors"]

_MOVED = 0.03
"""How far an input moves, relative to its size."""

_CANCELS = "a sum of terms of both signs that cancel: the absolute error is that of its terms"
REASONS = {
    "AveragePool": _CANCELS,
    "BatchNormalization": f"{_CANCELS}, the input and the running mean",
    "GRU": "with its gate near 1 the new state is 1 - z, which cancels; WebNN measures Relu activations only",
    "LSTM": "sigmoid and tanh, which have budgets of their own; WebNN measures Relu activations only",
}
"""Operator over its budget -> why."""


@dataclass(frozen=True)
class RoundingRow:
    """The example of one operator nearest to its budget; where there is none, the one with the largest error."""

    operator: str
    examples: int
    """How many were measured."""
    example: str
    ulp: float
    """The largest error of any element, in units in the last place of the exact result."""
    absolute: float
    """The largest absolute error."""
    budget_ulp: float | None
    budget_absolute: float | None
    within: bool | None
    """Whether every example is within its budget; None without one."""
    reason: str
    """Why it is not."""


@dataclass(frozen=True)
class RoundingTable:
    """Every operator with a float result."""

    operators: tuple[RoundingRow, ...]
    budgeted: int
    """How many operators have a budget."""
    within: int
    """How many of those keep it."""


def rounding_errors(operator: str | None = None, *, seed: int = 0) -> RoundingTable:
    """Measure every operator, or only `operator`; takes about 20 seconds.

    Raises:
        InputError: `operator` has no example with a float32 result.
    """
    examples = examples_by_operator()
    if operator is not None and operator not in examples:
        raise InputError(f"{operator}: no example with floats to measure; {nearest(operator, examples)}")
    chosen = examples if operator is None else {operator: examples[operator]}
    rows = [row for name, found in chosen.items() if (row := _row(name, found, seed)) is not None]
    judged = [row for row in rows if row.within is not None]
    return RoundingTable(tuple(rows), len(judged), sum(row.within is True for row in judged))


@dataclass(frozen=True)
class _Measured:
    example: str
    ulp: float
    absolute: float
    budget: Budget | None

    @property
    def share(self) -> float:
        """Of the budget; infinity where something was allowed to err by nothing and does."""
        if self.budget is None:
            return self.ulp
        error, allowed = (
            (self.absolute, self.budget.absolute)
            if self.budget.absolute is not None
            else (self.ulp, self.budget.ulp or 0)
        )
        return error / allowed if allowed else (0.0 if error == 0 else np.inf)


def _row(operator: str, examples: Iterable[Example], seed: int) -> RoundingRow | None:
    measured = [found for example in examples if (found := _measure(example, seed)) is not None]
    if not measured:
        return None
    judged = [found for found in measured if found.budget is not None]
    worst = max(judged or measured, key=lambda found: found.share)
    within = None if worst.budget is None else worst.share <= 1
    return RoundingRow(
        operator,
        len(measured),
        worst.example,
        worst.ulp,
        worst.absolute,
        None if worst.budget is None else worst.budget.ulp,
        None if worst.budget is None else worst.budget.absolute,
        within,
        REASONS.get(operator, "not known") if within is False else "",
    )


def _measure(example: Example, seed: int) -> _Measured | None:
    """None where the conversion refuses, or gives no float32."""
    drawn = _drawn(example, seed)
    single = module_of(drawn)
    got = () if single is None else _outputs(*single)
    measured = [index for index, result in enumerate(got) if result.dtype == torch.float32 and result.numel()]
    double = double_module_of(drawn) if measured else None
    if double is None:
        return None
    exact = _outputs(*double)
    pairs = [(got[index].numpy(), exact[index].numpy()) for index in measured]
    errors = [_errors(got, exact) for got, exact in pairs]
    return _Measured(example.name, max(u for u, _ in errors), max(a for _, a in errors), budget_of(example))


def _outputs(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        results = module(*inputs.values())
    return results if isinstance(results, tuple) else (results,)


def _drawn(example: Example, seed: int) -> Example:
    """The example with its inputs moved, rounded to float32."""
    generator = torch.Generator().manual_seed(seed)
    held = held_inputs(example)
    inputs = {
        name: array
        if array.dtype != np.float32 or name in held
        else moved(torch.from_numpy(array.astype(np.float64)), _MOVED, generator).float().numpy()
        for name, array in example.inputs.items()
    }
    return replace(example, inputs=inputs)


def _errors(got: NDArray[np.float32], exact: NDArray[np.float64]) -> tuple[float, float]:
    """The largest error in units in the last place, and absolute; only of results that float32 can hold."""
    held = np.abs(exact) <= np.finfo(np.float32).max
    difference = np.abs(got[held] - exact[held])
    if not difference.size:
        return 0.0, 0.0
    unit = np.spacing(np.abs(exact[held]).astype(np.float32))
    return float((difference / unit).max()), float(difference.max())
