"""Bring a loaded model into the canonical form that the lowering reads, in place.

1. Calls of functions are inlined.
2. Nodes are sorted topologically.
3. Graph inputs that are initializers are removed from the inputs.
4. Reads of constants that are not learned are marked, see `passes.constants.fixed_constants`.
5. Constants are folded, see `passes.constants.constant_folding`.
6. Nodes that nothing uses are removed, and graph inputs that nothing uses and that are not tensors of torch.

Names of inputs, outputs and weights do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx_ir.passes import InvariantError, PassError

from ...errors import InputError
from ..files.model_file import source_of
from ..operators.refusals import inlining_refused
from ..passes.constants.constant_folding import fold_constants
from ..passes.constants.fixed_constants import fix_constants
from .values import torch_dtype

__all__ = ["canonicalise", "fold_typed_constants"]


def canonicalise(model: ir.Model, learned: Sequence[str] = ()) -> None:
    """Bring `model`, which `load_onnx` loaded, into canonical form, in place.

    `learned` are patterns of numbers that are learned although the file does not show it, see `fix_constants`.

    Raises:
        InputError: the graph has a cycle, a function cannot be inlined, a constant cannot be computed, or a pattern
            matches no number that could be learned.
    """
    label = source_of(model).name
    if model.functions:
        _inline_functions(model, label)
    try:
        model.graph.sort()
    except ValueError as error:
        raise InputError(f"{label}: the graph has a cycle; re-export the model") from error
    passes.RemoveInitializersFromInputsPass()(model)  # rule 3; old files list every initializer among the inputs
    fix_constants(model, learned, label=label)
    fold_constants(model, label)
    passes.RemoveUnusedNodesPass()(model)
    _drop_foreign_inputs(model.graph)


def _inline_functions(model: ir.Model, label: str) -> None:
    try:
        passes.InlinePass()(model)
    except (PassError, InvariantError, ValueError) as error:
        raise inlining_refused(label, error.__cause__ or error) from error


def fold_typed_constants(model: ir.Model, label: str) -> None:
    """Fold a CastLike of a constant to the dtype of an input, in place; it needs inferred dtypes."""
    changed = False
    for node in model.graph:
        if node.op_type != "CastLike" or node.domain not in ("", "ai.onnx") or node.inputs[1] is None:
            continue
        target = node.inputs[1].dtype
        if target is not None:
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes.add(ir.AttrInt64("to", int(target)))
            changed = True
    if changed:
        fold_constants(model, label)
        passes.RemoveUnusedNodesPass()(model)


def _drop_foreign_inputs(graph: ir.Graph) -> None:
    kept = [
        value
        for value in graph.inputs
        if value.uses() or value.is_graph_output() or torch_dtype(value.dtype) is not None
    ]
    graph.inputs.clear()
    graph.inputs.extend(kept)
