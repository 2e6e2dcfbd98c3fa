"""Whether a candidate gives the outputs of its reference; where they differ, float64 says whose error it is.

1. The float32 outputs are compared as `Parity.max_rel` does. An output of a Sigmoid or a Softmax may also agree by
   absolute error, if it holds a probability of at least 0.1: below, a wrong weight would hide within 1e-5.
2. Only where they differ, the reference is computed in float64. A candidate that agrees with that is right, and the
   difference is an error of what computed the reference: ONNX Runtime's Sigmoid of -12 is off by 1.6 %. Above 5 % it
   is no rounding: that runtime departs from ONNX's definition, and a comparison of two models as they run fails.
3. A candidate that does not agree is itself computed in float64. If that agrees, both are the same function, and
   the difference is rounding: it is accepted up to twice the error that the reference's own float32 outputs have (or
   that `known_error` says the candidate's runtime makes in any case), and for a probability up to the absolute bound.
4. Anything else is refused. Where float64 cannot be had (an operator that the evaluator lacks, a served
   model), what the first rule refused stays refused, except a probability within the absolute bound and 5 % of the
   largest. So does everything under a tolerance below 1e-6, which asks for equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .parity import Parity, measure_parity

__all__ = ["ABSOLUTE_BOUND", "Exact", "Verdict", "judge", "unknown"]

Arrays = Sequence[NDArray[Any]]
Exact = Callable[[], Arrays | None]
"""Computes outputs in float64, or gives None where that is impossible."""

ABSOLUTE_BOUND = 1e-5
"""Largest absolute error of a probability; the Sigmoids of ONNX Runtime and torch are within 1e-6 of float64."""
_ROUNDING = 1e-6
"""A smaller tolerance is below what two orders of summation in float32 differ by."""
_PEAK = 0.1
"""Largest output from which on an absolute error of 1e-5 still shows a wrong weight: it is 1e-4 relative."""
_HIDDEN = 0.05
"""Relative error up to which a probability may pass by its absolute error without a second oracle."""
_DEPARTS = 0.05
"""Relative error from which on a runtime computes another function: its worst kernel, a Sigmoid, rounds by 0.016."""


@dataclass(frozen=True)
class Verdict:
    """Whether the outputs agree, and who said so."""

    parity: Parity
    """The float32 outputs of the candidate against those of the reference."""
    agrees: bool
    reason: str = ""
    """What float64 says of a difference; "" where the first comparison agreed."""
    departs: bool = False
    """Whether what computed the reference does not compute what ONNX specifies: the difference is no rounding."""


def judge(
    expected: Arrays,
    got: Arrays,
    tolerance: float,
    *,
    exact_reference: Exact,
    exact_candidate: Exact,
    probabilities: Collection[int] = (),
    known_error: Callable[[], float] = float,
) -> Verdict:
    """Judge `got`, the outputs of a candidate, by `expected`, those of its reference.

    Args:
        expected: float32 outputs of the reference.
        got: float32 outputs of the candidate, in the same order.
        tolerance: largest relative error, see `Parity.max_rel`.
        exact_reference: gives the reference's outputs in float64, or None; called only where the outputs differ.
        exact_candidate: likewise for the candidate.
        probabilities: positions of outputs that a Sigmoid or Softmax gives.
        known_error: relative to float64, the error that what runs the candidate makes on the model that the candidate
            was made from; called only where the two are the same function in float64.

    Raises:
        InputError: the number of outputs or a shape differs.
    """
    parity = measure_parity(expected, got)
    bound = min(tolerance, ABSOLUTE_BOUND)
    if _agree(expected, got, tolerance, probabilities, bound, peak=_PEAK):
        return Verdict(parity, agrees=True)
    if tolerance < _ROUNDING:
        return Verdict(parity, agrees=False)
    truth = _usable(exact_reference(), expected)
    if truth is None:
        agrees = _agree(expected, got, tolerance, probabilities, bound) and parity.max_rel <= _HIDDEN
        return Verdict(parity, agrees, "the reference cannot be computed in float64, to tell whose error it is")
    ours, theirs = measure_parity(truth, got).max_rel, measure_parity(truth, expected).max_rel
    facts = f"against float64, the candidate is off by {ours:.2g} and the reference by {theirs:.2g}"
    if ours <= tolerance and theirs > _DEPARTS:
        facts = (
            f"{facts}: what computed the reference departs from ONNX's definition, and gives these outputs wherever it"
        )
        return Verdict(parity, agrees=True, reason=f"{facts} runs the model", departs=True)
    if ours <= tolerance:
        return Verdict(parity, agrees=True, reason=f"{facts}: an error of the reference's float32 kernels")
    wide = _usable(exact_candidate(), expected)
    if wide is None:
        return Verdict(parity, agrees=False, reason=f"{facts}; the candidate cannot be computed in float64")
    same = measure_parity(truth, wide).max_rel
    if not same <= tolerance:
        return Verdict(parity, agrees=False, reason=f"{facts}; in float64 it still is by {same:.2g}: another function")
    facts = f"{facts}, in float64 by {same:.2g}"
    if ours <= 2 * theirs or _agree(truth, got, tolerance, probabilities, bound):
        return Verdict(parity, agrees=True, reason=f"{facts}: the same function, rounded to float32")
    before = known_error()
    if ours <= 2 * before:
        facts = f"{facts}: the same function, and the source itself is off by {before:.2g} in the same runtime"
        return Verdict(parity, agrees=True, reason=facts)
    return Verdict(parity, agrees=False, reason=f"{facts}: the same function, but it amplifies the rounding of float32")


def unknown() -> None:
    """Outputs in float64 that cannot be computed, as an argument of `judge`."""


def _agree(
    expected: Arrays, got: Arrays, tolerance: float, probabilities: Collection[int], bound: float, *, peak: float = 0.0
) -> bool:
    """Whether every output agrees: relative to its largest value, or a probability absolutely."""
    for index, (reference, candidate) in enumerate(zip(expected, got, strict=True)):
        found = measure_parity([reference], [candidate])
        if found.max_rel <= tolerance:
            continue
        largest = float(np.abs(np.asarray(reference, dtype=np.float64)).max(initial=0.0))
        if index not in probabilities or not (found.max_abs <= bound and largest >= peak):
            return False
    return True


def _usable(exact: Arrays | None, expected: Arrays) -> Arrays | None:
    """`exact`, where it has the shapes of the outputs it is compared with."""
    if exact is None or len(exact) != len(expected):
        return None
    shapes = zip(exact, expected, strict=True)
    return exact if all(np.shape(a) == np.shape(b) for a, b in shapes) else None
