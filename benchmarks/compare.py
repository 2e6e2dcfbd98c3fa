"""`rtool bench parity A B`: is the second model the first one? One measured answer, against a stated tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..converters.parity import Parity, measure_parity
from ..converters.runners import Runner
from ..errors import InputError
from .runners import common_batch, open_runner, random_inputs

__all__ = ["ParityReport", "compare_runners", "parity"]

Arrays = Sequence[NDArray[np.generic]]


@dataclass(frozen=True)
class ParityReport:
    """What was compared, the numbers, the tolerances (None: not asked for) and the verdict."""

    reference: str
    candidate: str
    batch: int
    inputs: str
    parity: Parity
    max_rel: float | None
    min_cosine: float | None
    passed: bool


def parity(
    reference: str | Path,
    candidate: str | Path,
    *,
    batch: int = 2,
    data: str | None = None,
    max_rel: float | None = 1e-5,
    min_cosine: float | None = None,
    seed: int = 0,
) -> ParityReport:
    """Run two model references on the same inputs and compare their outputs.

    The inputs are seeded random numbers, or the first `batch` images of the data set `data`, preprocessed as
    the reference model asks. A model with a baked batch is given that batch.

    Raises:
        InputError: the models cannot be compared: other inputs, outputs or baked batches.
    """
    runners = open_runner(reference), open_runner(candidate)
    batch = common_batch(runners, batch)
    inputs = _images(reference, data, batch) if data else random_inputs(runners[0].inputs, batch, seed)
    described = data or f"standard normal, seed {seed}"
    return compare_runners(*runners, inputs, described=described, max_rel=max_rel, min_cosine=min_cosine)


def compare_runners(
    reference: Runner,
    candidate: Runner,
    inputs: Arrays,
    *,
    described: str,
    max_rel: float | None = None,
    min_cosine: float | None = None,
) -> ParityReport:
    """The comparison itself, for models that are already open. Inputs are cast to what each model takes."""
    expected = reference.run(*_as_taken(reference, inputs))
    got = candidate.run(*_as_taken(candidate, inputs))
    numbers = measure_parity(expected, got)
    passed = (max_rel is None or numbers.max_rel <= max_rel) and (
        min_cosine is None or numbers.min_cosine >= min_cosine
    )
    batch = int(inputs[0].shape[0])
    return ParityReport(reference.name, candidate.name, batch, described, numbers, max_rel, min_cosine, passed)


def _as_taken(runner: Runner, inputs: Arrays) -> list[NDArray[np.generic]]:
    if len(runner.inputs) != len(inputs):
        raise InputError(f"{runner.name}: takes {len(runner.inputs)} inputs, the reference takes {len(inputs)}")
    taken = []
    for spec, array in zip(runner.inputs, inputs, strict=True):
        expected = [dim if isinstance(dim, int) else None for dim in spec.shape]
        if len(expected) != array.ndim or any(
            want not in (None, got) for want, got in zip(expected[1:], array.shape[1:], strict=True)
        ):
            raise InputError(
                f"{runner.name}: input '{spec.name}' has shape {list(spec.shape)}, the other model's has "
                f"{list(array.shape)}; compare models with the same input"
            )
        if np.dtype(spec.dtype).kind != array.dtype.kind:
            raise InputError(
                f"{runner.name}: input '{spec.name}' is {spec.dtype}, the other model's is {array.dtype}; "
                "one of them has its preprocessing embedded"
            )
        taken.append(array.astype(spec.dtype, copy=False))
    return taken


def _images(reference: str | Path, data: str, batch: int) -> Arrays:
    from ..converters.reference import load_model
    from ..finetune.data import first_images, open_dataset

    preprocessing = load_model(reference).preprocessing
    if preprocessing is None:
        raise InputError(f"{reference}: no preprocessing is stored with this model, so images cannot be prepared")
    return (preprocessing(first_images(open_dataset(data), batch)),)
