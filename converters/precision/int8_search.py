"""Find the few nodes that must stay in float32 when a quantised model misses its gate; see `precision_search`.

Activation ranges are measured once; each trial quantises anew around the nodes it keeps, and runs in ONNX Runtime.
The list of names is plain data: `to_int8(model, images, keep=names)` gives the same model again.
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
"""With more than this share of the nodes in float32 a quantised model is neither small nor fast."""
_BATCH = 16


@dataclass(frozen=True)
class Int8Search:
    """The quantised model that holds the gate, which nodes it cost, and the parity it reached."""

    model: onnx.ModelProto
    kept: tuple[str, ...]
    """Nodes in float32 for the gate's sake."""
    unprofitable: tuple[str, ...]
    """Nodes in float32 because int8 would make the file larger, see `unprofitable_nodes`."""
    parity: Parity
    trials: int


def search_int8(
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    min_cosine: float = 0.99,
    method: CalibrationMethod = "minmax",
    keep: Sequence[str] = (),
    reference: Sequence[NDArray[Any]] | None = None,
) -> Int8Search:
    """Quantise `model` so that its outputs for `images` keep `min_cosine` with those of float32.

    Args:
        model: the float32 model, with one input.
        images: preprocessed calibration images [N, ...], at least 16; also what is measured.
        min_cosine: the gate.
        method: how activation ranges come from what was seen.
        keep: names of nodes to keep in float32 from the start, as from an earlier search.
        reference: the outputs to compare with; default is what `model` gives.

    Raises:
        GateError: the gate cannot be held with at most half of the nodes in float32, or an embedding depends on its
            neighbours in the batch.
        InputError: the model cannot be quantised.
    """
    expected = tuple(reference) if reference is not None else run_in_batches(OnnxRunner(model), images, _BATCH)
    trials = 0
    with calibrated(model, images, method=method) as quantiser:
        quantiser.check_float32_nodes(keep)
        names = [name for name in quantiser.operators if name not in quantiser.unprofitable]
        unprofitable = tuple(name for name in quantiser.operators if name in quantiser.unprofitable)

        def attempt(kept: tuple[str, ...]) -> Int8Search:
            nonlocal trials
            trials += 1
            quantised = quantiser.quantise(kept)
            outputs = run_in_batches(OnnxRunner(quantised), images, _BATCH)
            return Int8Search(quantised, kept, unprofitable, measure_parity(expected, outputs), trials)

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
    if best.parity.min_cosine < min_cosine or len(best.kept) > max(LARGEST_SHARE * len(names), len(keep)):
        raise GateError(
            f"int8: min cosine {best.parity.min_cosine:.6f} with {len(best.kept)} of {len(names)} nodes in float32, "
            f"must be >= {min_cosine:g} with at most {LARGEST_SHARE:.0%}; calibrate on more images, try another "
            "--calibration, or use --fp16"
        )
    check_slots(best.model, images)
    return replace(best, trials=trials)


def _weights_of(model: onnx.ModelProto) -> dict[str, int]:
    """How many weights each node reads: returned to float32, each costs three bytes."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    return {node.name: sum(sizes.get(name, 0) for name in node.input) for node in model.graph.node}
