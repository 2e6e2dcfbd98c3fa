"""The inputs on which models are measured: a batch that all of them support, and random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..converters.records.preprocessing import Preprocessing
from ..converters.records.record import TensorSpec
from ..converters.runtime.probes.given_probes import Probe, with_probes
from ..converters.runtime.probes.open_sizes import closed_sizes
from ..converters.runtime.probes.probing import probe_inputs
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


def random_inputs(
    specs: Sequence[TensorSpec],
    batch: int,
    seed: int = 0,
    *,
    preprocessing: Preprocessing | None = None,
    probes: Mapping[str, Probe] | None = None,
) -> tuple[NDArray[np.generic], ...]:
    """One seeded array per spec, in its dtype: [batch, ...], or of its own size where that is fixed and no batch.

    Values are those of `probe_inputs`, except for the inputs that `probes` names. Open sizes are closed as
    `closed_sizes` does with `preprocessing`.

    Raises:
        InputError: a probe does not fit.
    """
    first = next((spec.shape[0] for spec in specs if spec.shape), None)
    sized = []
    for spec in closed_sizes(specs, preprocessing, probes):
        fixed = isinstance(spec.shape[0], int) and spec.shape[0] != first if spec.shape else True
        sized.append(spec if fixed else replace(spec, shape=(batch, *spec.shape[1:])))
    given = [replace(spec, shape=("batch", *spec.shape[1:])) if spec.shape[:1] == (batch,) else spec for spec in sized]
    return with_probes(given, probe_inputs(sized, batch, seed=seed), probes or {})
