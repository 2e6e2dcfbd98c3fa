"""Brings a loaded model into the one form the lowering reads: functions inlined, constants folded, nodes sorted.

Works in place on the model `load_onnx` made. Graph inputs that are really initializers, or that nothing uses, are
dropped. Names of inputs, outputs and weights stay as they are in the file.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx_ir.passes import InvariantError, PassError

from ...errors import InputError
from ..files.model_file import source_of
from ..passes.constant_folding import fold_constants

__all__ = ["fold_typed_constants", "normalise"]


def normalise(model: ir.Model) -> None:
    """Normalise in place.

    Raises:
        InputError: the graph has a cycle, a function cannot be inlined, or a constant cannot be computed.
    """
    label = source_of(model).name
    if model.functions:
        _inline_functions(model, label)
    try:
        model.graph.sort()
    except ValueError as error:
        raise InputError(f"{label}: the graph has a cycle; export the model again") from error
    passes.RemoveInitializersFromInputsPass()(model)  # old files list every initializer among the inputs
    fold_constants(model, label)
    passes.RemoveUnusedNodesPass()(model)
    _drop_unused_inputs(model.graph)


def _inline_functions(model: ir.Model, label: str) -> None:
    try:
        passes.InlinePass()(model)
    except (PassError, InvariantError, ValueError) as error:
        cause = error.__cause__ or error
        raise InputError(
            f"{label}: its functions cannot be put in the place of their calls ({cause}); export the model without "
            "functions, or inline them with onnx.inliner and onnx.version_converter"
        ) from error


def fold_typed_constants(model: ir.Model, label: str) -> None:
    """Fold what becomes constant once element types are known: a CastLike of a constant to the type of an input."""
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


def _drop_unused_inputs(graph: ir.Graph) -> None:
    kept = [value for value in graph.inputs if value.uses() or value.is_graph_output()]
    graph.inputs.clear()
    graph.inputs.extend(kept)
