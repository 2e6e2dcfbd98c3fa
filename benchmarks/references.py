"""The inputs on which models are measured: a batch that all of them support, and random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..converters.records.record import TensorSpec
from ..converters.runtime.runners import Runner
from ..errors import InputError

__all__ = ["common_batch", "random_inputs"]


def common_batch(runners: Sequence[Runner], wanted: int) -> int:
    """The batch, in rows, that all `runners` support: the fixed batch if a model has one, else `wanted`.

    Raises:
        InputError: two models have different fixed batches, or `wanted` is not positive.
    """
    if wanted < 1:
        raise InputError(f"batch: expected 1 or more, got {wanted}")
    fixed = {runner.batch for runner in runners if runner.batch is not None}
    if len(fixed) > 1:
        described = ", ".join(f"{runner.name}: {runner.batch}" for runner in runners if runner.batch is not None)
        raise InputError(f"the models have different fixed batches ({described}); export one with --batch dynamic")
    return fixed.pop() if fixed else wanted


def random_inputs(specs: Sequence[TensorSpec], batch: int, seed: int = 0) -> tuple[NDArray[np.generic], ...]:
    """One seeded array [batch, ...] per spec, in its dtype.

    Floats are standard normal, uint8 is uniform over 0..255, other integers are uniform over 0..9.

    Raises:
        InputError: an axis beside the batch is dynamic, or the dtype is neither float nor integer.
    """
    generator = np.random.default_rng(seed)
    arrays: list[NDArray[np.generic]] = []
    for spec in specs:
        rest = spec.shape[1:]
        if not all(isinstance(dim, int) for dim in rest):
            raise InputError(
                f"input '{spec.name}' has shape {list(spec.shape)}: only the batch may be dynamic; "
                "give real inputs with --data"
            )
        shape = (batch, *(int(dim) for dim in rest if dim is not None))
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays.append(generator.standard_normal(shape).astype(dtype))
        elif dtype.kind in "iu":
            arrays.append(generator.integers(0, 256 if dtype == np.uint8 else 10, shape).astype(dtype))
        else:
            raise InputError(
                f"input '{spec.name}' is {spec.dtype}: random numbers are made for floats and integers only; use --data"
            )
    return tuple(arrays)
