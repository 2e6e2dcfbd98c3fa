"""Find the few nodes that must stay in float32 when a model narrowed to 16 bits loses its numbers.

First what overflows: the float32 model is run on real inputs with every intermediate value as an output, and nodes
that write or read more than half of the narrow type's range are kept. If the gate still fails, blocks are returned to
float32 by `precision_search`. The list of names is plain data:
`to_half(model, keep=names)` gives the same model again. Everything is measured with real rounding (`half_emulation`),
which ONNX Runtime's CPU kernels would hide.
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
from ..runtime.parity import Parity, measure_parity
from ..runtime.runners import ALL, OnnxRunner, batches_of, run_in_batches
from .block_search import named_nodes, return_blocks
from .half import HalfModel, HalfType, convert_prepared, refuse_unknown_nodes
from .half_emulation import emulate_half
from .half_preparation import prepare_for_half

__all__ = ["HalfSearch", "search_half"]

LIMITS = {"float16": 65504.0, "bfloat16": float(np.finfo(np.float32).max)}
"""Largest finite numbers of the narrow types."""
SAFE_SHARE = 0.5
"""Values beyond this share of the limit are taken for overflowing: other images go further than those measured."""
LARGEST_SHARE = 0.1
"""More than this share of the nodes returned to float32 is no float16 model any more."""
FEW_NODES = 4
"""Always allowed: one operation that overflows and its neighbours are more than a tenth of a small graph."""


@dataclass(frozen=True)
class HalfSearch:
    """The narrow model that holds the gate, which nodes it cost, and the parity it reached."""

    half: HalfModel
    kept: tuple[str, ...]
    parity: Parity
    trials: int


def search_half(
    model: onnx.ModelProto,
    inputs: Sequence[NDArray[Any]],
    *,
    min_cosine: float = 0.9999,
    keep: Sequence[str] = (),
    uncounted: Collection[str] = (),
    keep_io_types: bool = True,
    dtype: HalfType = "float16",
    reference: Sequence[NDArray[Any]] | None = None,
) -> HalfSearch:
    """Narrow `model` so that its outputs for `inputs` keep `min_cosine` with those of float32.

    Args:
        model: the float32 model.
        inputs: real inputs, one array a graph input, of any number of images.
        min_cosine: the gate.
        keep: names of nodes to keep in float32 from the start, as from an earlier search.
        uncounted: names of nodes that are not the network's (embedded preprocessing): they stay in float32 too, but
            count neither as nodes of the graph nor as nodes in float32.
        keep_io_types: as in `to_half`.
        dtype: the narrow type.
        reference: the outputs to compare with; default is what `model` gives.

    Raises:
        InputError: two nodes share a name, or one to keep does not exist.
        GateError: the gate cannot be held with at most a tenth of the nodes (or `FEW_NODES`) returned to float32.
            Nodes that a rule keeps (`to_half`) do not count, whether `keep` names them or not.
    """
    prepared = named_nodes(prepare_for_half(model))
    refuse_unknown_nodes(keep, model, prepared)
    # What the preparation computed wrong would go unseen beside a reference of the prepared model.
    expected = run_in_batches(OnnxRunner(model), inputs, ALL) if reference is None else tuple(reference)
    search = _Search(prepared, tuple(inputs), keep_io_types, dtype, expected, tuple(uncounted))
    best = search.attempt(tuple(keep))
    if best.parity.min_cosine < min_cosine:
        best = search.attempt(tuple(dict.fromkeys((*best.kept, *search.overflowing()))))
    if best.parity.min_cosine < min_cosine:
        nodes = [node.name for node in search.model.graph.node if node.name not in search.uncounted]
        best = return_blocks(search.attempt, nodes, best, min_cosine, largest_share=0.5)
    nodes_at_all, returned = search.counted(best)
    if best.parity.min_cosine < min_cosine or returned > max(FEW_NODES, LARGEST_SHARE * nodes_at_all):
        instead = "with --bf16, whose range is that of float32, or in float32" if dtype == "float16" else "in float32"
        raise GateError(
            f"{dtype}: min cosine {best.parity.min_cosine:.6f} with {returned} of {nodes_at_all} nodes returned to "
            f"float32, must be >= {min_cosine:g} with at most {LARGEST_SHARE:.0%} (or {FEW_NODES}); "
            f"export {instead}"
        )
    return best


class _Search:
    """One model and its inputs; counts how often it was narrowed."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: tuple[NDArray[Any], ...],
        keep_io_types: bool,
        dtype: HalfType,
        expected: tuple[NDArray[Any], ...],
        uncounted: tuple[str, ...],
    ) -> None:
        self.model, self.inputs, self.uncounted = model, inputs, uncounted
        self.keep_io_types, self.dtype = keep_io_types, dtype
        self.expected = expected
        self.trials = 0

    def attempt(self, kept: tuple[str, ...]) -> HalfSearch:
        """Narrow all but `kept`, and measure."""
        self.trials += 1
        keep = (*kept, *self.uncounted)
        half = convert_prepared(self.model, keep_io_types=self.keep_io_types, keep=keep, dtype=self.dtype)
        runner = OnnxRunner(emulate_half(half.model))
        arrays = [array.astype(spec.dtype, copy=False) for array, spec in zip(self.inputs, runner.inputs, strict=True)]
        return HalfSearch(half, kept, measure_parity(self.expected, run_in_batches(runner, arrays, ALL)), self.trials)

    def counted(self, trial: HalfSearch) -> tuple[int, int]:
        """How many nodes the network has, subgraphs included, and how many of them were returned to float32."""
        nodes = [node.name for node in ir.from_proto(self.model).graph.all_nodes()]
        return len(set(nodes) - set(self.uncounted)), len(set(trial.half.returned) - set(self.uncounted))

    def overflowing(self) -> list[str]:
        """Nodes that write or read values beyond the safe share of the range."""
        limit = SAFE_SHARE * LIMITS[self.dtype]
        large = _values_beyond(self.model, self.inputs, limit)
        return [
            node.name
            for node in self.model.graph.node
            if not large.isdisjoint(node.output) or not large.isdisjoint(node.input)
        ]


def _values_beyond(model: onnx.ModelProto, inputs: Sequence[NDArray[Any]], limit: float) -> set[str]:
    """Names of float32 values of the main graph whose magnitude exceeds `limit` for `inputs`."""
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
