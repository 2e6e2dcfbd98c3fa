"""Search for the few nodes that must stay in float32 so that a model in fp16 or bf16 keeps its accuracy.

1. The model is converted (`half`) and compared with float32 outputs on real inputs.
2. If that misses the gate, nodes that overflow go back to float32: those that read or write values beyond half of the
   dtype's range, measured in float32 on the same inputs.
3. If it still misses, blocks of nodes go back to float32, see `block_search`.

The result is a list of names: `to_half(model, keep=names)` makes the same model again. Accuracy is measured with
16-bit rounding (`half_emulation`), which ONNX Runtime's CPU kernels do not perform.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import GateError
from ..runtime.half_emulation import emulate_half
from ..runtime.parity import Parity, measure_parity
from ..runtime.runners import ALL, OnnxRunner, batches_of, run_in_batches
from .block_search import named_nodes, return_blocks
from .half import HalfConverter, HalfModel, HalfType, convert_prepared, refuse_unknown_nodes
from .half_preparation import prepare_for_half
from .library_half import convert_with_library

__all__ = ["HalfSearch", "search_half"]

LIMITS = {"float16": 65504.0, "bfloat16": float(np.finfo(np.float32).max)}
"""Largest finite number of each dtype."""
SAFE_SHARE = 0.5
"""Values beyond this share of the limit count as overflowing, because other images may give larger ones."""
LARGEST_SHARE = 0.1
"""Largest share of the nodes that may go back to float32."""
FEW_NODES = 4
"""This many nodes may always go back: an overflow and its neighbours exceed a tenth of a small graph."""


@dataclass(frozen=True)
class HalfSearch:
    """The converted model that passes the gate, the nodes that stay in float32 for it, and its parity."""

    half: HalfModel
    float32_nodes: tuple[str, ...]
    """Names to pass as `keep` to `to_half`; nodes that stay by a rule are listed in `half.float32_nodes` only."""
    parity: Parity
    trials: int
    """Number of conversions that were measured."""


def search_half(
    model: onnx.ModelProto,
    inputs: Sequence[NDArray[Any]],
    *,
    min_cosine: float = 0.9999,
    keep: Sequence[str] = (),
    uncounted: Collection[str] = (),
    keep_io_types: bool = True,
    dtype: HalfType = "float16",
    converter: HalfConverter = "rtool",
    reference: Sequence[NDArray[Any]] | None = None,
) -> HalfSearch:
    """Convert `model` so that the cosine between its outputs and those of float32 is at least `min_cosine`.

    Args:
        model: the float32 model.
        inputs: real inputs, one array per graph input, of any number of images.
        min_cosine: the gate: smallest cosine per image between the two outputs.
        keep: names of nodes that stay in float32 from the start, e.g. from an earlier search.
        uncounted: names of nodes that do not belong to the network (embedded preprocessing): they stay in float32 too,
            and the limit on float32 nodes does not count them.
        keep_io_types: as in `to_half`.
        dtype: "float16" or "bfloat16".
        converter: who converts; the library converts to float16 only.
        reference: the outputs to compare with; by default those of `model`.

    Raises:
        InputError: two nodes share a name, a node in `keep` does not exist, or the library fails.
        GateError: the gate is missed with at most a tenth of the nodes (or `FEW_NODES`) back in float32. Nodes that
            stay by a rule (`half_rules`) do not count, whether `keep` names them or not.
    """
    prepared = named_nodes(prepare_for_half(model))
    refuse_unknown_nodes(keep, model, prepared)
    # The reference is `model`, not `prepared`, so that an error of the preparation is measured too.
    expected = run_in_batches(OnnxRunner(model), inputs, ALL) if reference is None else tuple(reference)
    search = _Search(prepared, tuple(inputs), keep_io_types, dtype, converter, expected, tuple(uncounted))
    best = search.attempt(tuple(keep))
    if best.parity.min_cosine < min_cosine:
        best = search.attempt(tuple(dict.fromkeys((*best.float32_nodes, *search.overflowing()))))
    if best.parity.min_cosine < min_cosine:
        nodes = [node.name for node in search.model.graph.node if node.name not in search.uncounted]
        best = return_blocks(search.attempt, nodes, best, min_cosine, largest_share=0.5)
    total, returned = search.counted(best)
    if best.parity.min_cosine < min_cosine or returned > max(FEW_NODES, LARGEST_SHARE * total):
        instead = "with --bf16, whose range is that of float32, or in float32" if dtype == "float16" else "in float32"
        raise GateError(
            f"{dtype}: min cosine {best.parity.min_cosine:.6f} with {returned} of {total} nodes returned to "
            f"float32, must be >= {min_cosine:g} with at most {LARGEST_SHARE:.0%} (or {FEW_NODES}); "
            f"export {instead}"
        )
    return best


class _Search:
    """One model and its inputs; counts the trials."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: tuple[NDArray[Any], ...],
        keep_io_types: bool,
        dtype: HalfType,
        converter: HalfConverter,
        expected: tuple[NDArray[Any], ...],
        uncounted: tuple[str, ...],
    ) -> None:
        self.model, self.inputs, self.uncounted = model, inputs, uncounted
        self.keep_io_types, self.dtype, self.converter = keep_io_types, dtype, converter
        self.expected = expected
        self.trials = 0

    def attempt(self, float32_nodes: tuple[str, ...]) -> HalfSearch:
        """Convert all nodes but `float32_nodes`, and measure."""
        self.trials += 1
        keep = (*float32_nodes, *self.uncounted)
        if self.converter == "rtool":
            half = convert_prepared(self.model, keep_io_types=self.keep_io_types, keep=keep, dtype=self.dtype)
        else:
            half = convert_with_library(self.model, keep_io_types=self.keep_io_types, keep=keep)
        runner = OnnxRunner(emulate_half(half.model, float32_inputs=self.dtype == "bfloat16"))
        arrays = [array.astype(spec.dtype, copy=False) for array, spec in zip(self.inputs, runner.inputs, strict=True)]
        parity = measure_parity(self.expected, run_in_batches(runner, arrays, ALL))
        return HalfSearch(half, float32_nodes, parity, self.trials)

    def counted(self, trial: HalfSearch) -> tuple[int, int]:
        """The number of nodes of the network, subgraphs included, and how many of them went back to float32."""
        nodes = [node.name for node in ir.from_proto(self.model).graph.all_nodes()]
        return len(set(nodes) - set(self.uncounted)), len(set(trial.half.returned) - set(self.uncounted))

    def overflowing(self) -> list[str]:
        """Names of nodes that read or write values beyond the safe share of the range."""
        limit = SAFE_SHARE * LIMITS[self.dtype]
        large = _values_beyond(self.model, self.inputs, limit)
        return [
            node.name
            for node in self.model.graph.node
            if not large.isdisjoint(node.output) or not large.isdisjoint(node.input)
        ]


def _values_beyond(model: onnx.ModelProto, inputs: Sequence[NDArray[Any]], limit: float) -> set[str]:
    """Names of float32 values of the main graph whose magnitude exceeds `limit` (or is NaN) on `inputs`."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(watched)
    own = {value.name for value in model.graph.output}
    values = [
        value
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in own
    ]
    watched.graph.output.extend(values)
    names = [value.name for value in watched.graph.output]
    runner = OnnxRunner(watched)
    return {
        name
        for fed, _ in batches_of(runner, inputs, ALL)
        for name, array in zip(names, runner.run(*fed), strict=True)
        if array.size and array.dtype.kind == "f" and not float(np.abs(array).max()) <= limit
    }
