"""Search for the few nodes that must stay in float32 so that a model in int8 passes its gate, see `block_search`.

Activation ranges are measured once; each trial quantises the float32 model again, without its float32 nodes, and runs
in ONNX Runtime. Nodes go back to float32 in order of accuracy gained per byte. The result is a list of names:
`to_int8(model, images, keep=names)` makes the same model again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import GateError
from ..runtime.parity import Parity, measure_parity
from ..runtime.runners import OnnxRunner, run_in_batches
from .block_search import return_blocks
from .int8 import calibrated, check_slots
from .int8_ranges import CalibrationMethod

__all__ = ["Int8Search", "search_int8"]

LARGEST_SHARE = 0.5
"""Largest share of the nodes in float32; beyond it a quantised model is neither small nor fast."""
_BATCH = 16


@dataclass(frozen=True)
class Int8Search:
    """The quantised model that passes the gate, the nodes that stay in float32 for it, and its parity."""

    model: onnx.ModelProto
    float32_nodes: tuple[str, ...]
    """Names of nodes that stay in float32 to pass the gate."""
    unprofitable: tuple[str, ...]
    """Names of nodes that stay in float32 because int8 would make the file larger, see `unprofitable_nodes`."""
    parity: Parity
    trials: int
    """Number of quantisations that were measured."""


def search_int8(
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    min_cosine: float = 0.99,
    method: CalibrationMethod = "minmax",
    keep: Sequence[str] = (),
    reference: Sequence[NDArray[Any]] | None = None,
) -> Int8Search:
    """Quantise `model` so that the cosine between its outputs and those of float32 is at least `min_cosine`.

    Args:
        model: the float32 model, with one input.
        images: preprocessed calibration images float32 [N, ...], at least 16; the cosine is measured on them too.
        min_cosine: the gate: smallest cosine per image between the two outputs.
        method: how activation ranges follow from the measured values, see `int8_ranges`.
        keep: names of nodes that stay in float32 from the start, e.g. from an earlier search.
        reference: the outputs to compare with; by default those of `model`.

    Raises:
        GateError: the gate is missed with at most half of the nodes in float32, or an embedding depends on the other
            images of the batch.
        InputError: the model cannot be quantised.
    """
    expected = tuple(reference) if reference is not None else run_in_batches(OnnxRunner(model), images, _BATCH)
    trials = 0
    with calibrated(model, images, method=method) as quantiser:
        quantiser.check_float32_nodes(keep)
        names = [name for name in quantiser.operators if name not in quantiser.unprofitable]
        unprofitable = tuple(name for name in quantiser.operators if name in quantiser.unprofitable)

        def attempt(float32_nodes: tuple[str, ...]) -> Int8Search:
            nonlocal trials
            trials += 1
            quantised = quantiser.quantise(float32_nodes)
            outputs = run_in_batches(OnnxRunner(quantised), images, _BATCH)
            return Int8Search(quantised, float32_nodes, unprofitable, measure_parity(expected, outputs), trials)

        best = attempt(tuple(name for name in keep if name not in unprofitable))
        if best.parity.min_cosine < min_cosine:
            sizes = _weights_of(model)
            best = return_blocks(
                attempt,
                names,
                best,
                min_cosine,
                largest_share=LARGEST_SHARE,
                cost=lambda names: sum(1 + sizes.get(name, 0) for name in names),
            )
    if best.parity.min_cosine < min_cosine or len(best.float32_nodes) > max(LARGEST_SHARE * len(names), len(keep)):
        raise GateError(
            f"int8: min cosine {best.parity.min_cosine:.6f} with {len(best.float32_nodes)} of {len(names)} nodes "
            f"in float32, must be >= {min_cosine:g} with at most {LARGEST_SHARE:.0%}; calibrate on more images, "
            "try another --calibration, or use --fp16"
        )
    check_slots(best.model, images)
    return replace(best, trials=trials)


def _weights_of(model: onnx.ModelProto) -> dict[str, int]:
    """Node name -> number of weights it reads; in float32 each takes three bytes more than in int8."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    return {node.name: sum(sizes.get(name, 0) for name in node.input) for node in model.graph.node}
