"""Parity: measure how far the outputs of a candidate model are from those of its reference.

The maximum relative error of an output is its largest absolute difference divided by the largest absolute value of
the reference. An error per element would be dominated by elements that happen to be near zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GateError, InputError

__all__ = ["Parity", "assert_parity", "check_gates", "measure_parity"]

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Parity:
    """The largest differences over all outputs of a model; `worst` is (output, flat index) of `max_abs`."""

    max_abs: float
    max_rel: float
    min_cosine: float
    mean_cosine: float
    """Mean over rows, of the worst output. Smoother than `min_cosine`, which a single row decides."""
    rank_agreement: float
    """Share of rows whose nearest other row in the batch is the same in both (1.0 with fewer than 3 rows)."""
    worst: tuple[int, int]
    elements: int

    @property
    def identical(self) -> bool:
        """Whether no element differs."""
        return self.max_abs == 0.0


def check_gates(what: str, max_rel: float | None = None, min_cosine: float | None = None) -> None:
    """Check that the gates of a comparison are numbers that an outcome can meet or miss; None is not a gate.

    Args:
        what: What was asked for, for the message: a command, and the option where its name is another.
        max_rel: The largest relative error allowed, finite and at least 0.
        min_cosine: The smallest cosine allowed, from -1 to 1.

    Raises:
        InputError: one is not such a number; NaN is none.
    """
    if max_rel is not None and not 0 <= max_rel < math.inf:
        raise InputError(f"{what}: the largest relative error must be a number from 0 on, got {max_rel}")
    if min_cosine is not None and not -1 <= min_cosine <= 1:
        raise InputError(f"{what}: the smallest cosine must be a number from -1 to 1, got {min_cosine}")


def measure_parity(reference: Arrays, candidate: Arrays) -> Parity:
    """Compare outputs pairwise, in float64; axis 0 is the batch. NaN and infinity agree only with the same value.

    Raises:
        InputError: the number of outputs or a shape differs.

    Examples:
        >>> reference = np.eye(2, dtype=np.float32)
        >>> parity = rtool.converters.measure_parity([reference], [1.5 * reference])
        >>> parity.max_abs, parity.max_rel, parity.min_cosine
        (0.5, 0.5, 1.0)
    """
    if len(reference) != len(candidate):
        raise InputError(f"parity: {len(reference)} reference outputs against {len(candidate)}")
    max_abs, max_rel, smallest, mean, ranks, worst, elements = 0.0, 0.0, 1.0, 1.0, 1.0, (0, 0), 0
    for index, (expected, got) in enumerate(zip(reference, candidate, strict=True)):
        a, b = np.asarray(expected), np.asarray(got)
        if a.shape != b.shape:
            raise InputError(f"parity: output {index} has shape {list(b.shape)}, expected {list(a.shape)}")
        elements += a.size
        if a.size == 0:
            continue
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        same = (a64 == b64) | (np.isnan(a64) & np.isnan(b64))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(a64 - b64))
        difference = np.where(np.isnan(difference), np.inf, difference)
        position = int(difference.argmax())
        largest = float(difference.flat[position])
        finite = np.abs(a64[np.isfinite(a64)])
        scale = float(finite.max()) if finite.size else 0.0
        if largest > max_abs:
            max_abs, worst = largest, (index, position)
        max_rel = max(max_rel, largest / scale if scale > 0 else (0.0 if largest == 0 else np.inf))
        rows_a, rows_b = _unit_rows(a64), _unit_rows(b64)
        cosines = _cosines(rows_a, rows_b)
        smallest, mean = min(smallest, float(cosines.min())), min(mean, float(cosines.mean()))
        ranks = min(ranks, _rank_agreement(rows_a, rows_b))
    return Parity(max_abs, max_rel, smallest, mean, ranks, worst, elements)


def assert_parity(
    reference: Arrays,
    candidate: Arrays,
    *,
    max_rel: float | None = None,
    min_cosine: float | None = None,
    reason: str,
) -> Parity:
    """Measure parity and raise when it misses a tolerance.

    Args:
        reference: expected outputs.
        candidate: outputs to compare, in the same order.
        max_rel: largest maximum relative error, see `Parity`.
        min_cosine: smallest cosine over all rows.
        reason: why the tolerance has its value; part of the error message.

    Raises:
        GateError: a tolerance is missed; the message gives the measured values and the worst element.
        InputError: the number of outputs or a shape differs.
    """
    parity = measure_parity(reference, candidate)
    misses = []
    if max_rel is not None and not parity.max_rel <= max_rel:
        misses.append(f"max relative error {parity.max_rel:.3g} > {max_rel:g}")
    if min_cosine is not None and not parity.min_cosine >= min_cosine:
        misses.append(f"min cosine {parity.min_cosine:.8f} < {min_cosine:g}")
    if misses:
        output, element = parity.worst
        raise GateError(
            f"parity: {'; '.join(misses)} (max abs {parity.max_abs:.3g} at output {output}, element {element}); "
            f"tolerance: {reason}"
        )
    return parity


def _unit_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = values.reshape(values.shape[0] if values.ndim else 1, -1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return rows / np.where(norms > 0, norms, 1.0)


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """One cosine per row; -1 where a value is not finite."""
    cosines = (a * b).sum(axis=1)
    # Two zero rows agree; a zero row against anything else has cosine 0.
    cosines = np.where(~a.any(axis=1) & ~b.any(axis=1), 1.0, cosines)
    return np.where(np.isfinite(cosines), cosines, -1.0)


def _rank_agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 1.0
    similar_a, similar_b = a @ a.T, b @ b.T
    np.fill_diagonal(similar_a, -np.inf)
    np.fill_diagonal(similar_b, -np.inf)
    return float((similar_a.argmax(axis=1) == similar_b.argmax(axis=1)).mean())
