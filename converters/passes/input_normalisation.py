"""Keep the constants fixed with which a graph normalises its own input, `(x - mean) / std`, as MXNet's exports do.

The graph has one input [N, C, H, W], one node reads it, and that node and those after it are steps of
`records.input_scaling`. Mean and standard deviation are not weights, so they are not trained. Which preprocessing
such a network gets is decided in `preprocessing.decision`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..records.input_scaling import SCALING_OPERATORS, ScalingStep, mean_and_std, scaling_step
from .constants.constant_folding import FIXED_KEY, LITERAL_KEY

__all__ = ["keep_normalisation_fixed"]

_MOST_STEPS = 6


def keep_normalisation_fixed(graph: ir.Graph) -> bool:
    """Mark the constants of the normalisation at the input, so that they do not become parameters.

    Returns:
        Whether the graph, which is in canonical form, normalises its input.
    """
    images = graph.inputs[0] if len(graph.inputs) == 1 else None
    if images is None or images.shape is None or len(images.shape) != 4 or not isinstance(images.shape[1], int):
        return False
    channels = images.shape[1]
    nodes: list[_Node] = []
    value = images
    while len(nodes) < _MOST_STEPS and (node := _step(value, channels)) is not None:
        nodes.append(node)
        value = node.result
    if mean_and_std([node.step for node in nodes], channels) is None:
        return False
    for node in nodes:
        node.constant.meta[FIXED_KEY] = True
        node.constant.meta[LITERAL_KEY] = True
    return True


@dataclass(frozen=True)
class _Node:
    step: ScalingStep
    constant: ir.Value
    result: ir.Value


def _step(value: ir.Value, channels: int) -> _Node | None:
    """The node that reads `value`, where it is the only one and adds or multiplies one constant per channel."""
    uses = [use for use in value.uses() if use.node.op_type not in ("Shape", "Size")]
    if len(uses) != 1 or uses[0].node.op_type not in SCALING_OPERATORS:
        return None
    node = uses[0].node
    constant = node.inputs[1 - uses[0].idx]
    if constant is None or constant.const_value is None:
        return None
    array = np.asarray(constant.const_value.numpy())
    step = scaling_step(node.op_type, array, channels, constant_first=uses[0].idx == 1)
    return None if step is None else _Node(step, constant, node.outputs[0])
