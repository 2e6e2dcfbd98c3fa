"""Recognise a graph that normalises its own input, `(x - mean) / std`, as networks exported from MXNet do.

The graph has one input [N, C, H, W], one node reads it, and that node, or it and the one after it, are the steps of
`records.input_scaling`. Such a network expects raw pixels. Its mean and standard deviation are not trained: they stay
fixed and are reported as part of the preprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..records.input_scaling import SCALING_OPERATORS, ScalingStep, mean_and_std, preprocessing_outside, scaling_step
from ..records.preprocessing_guess import FoundPreprocessing
from .constants.constant_folding import FIXED_KEY, LITERAL_KEY

__all__ = ["InputNormalisation", "find_input_normalisation"]


@dataclass(frozen=True)
class InputNormalisation:
    """`(pixel - mean) / std` with one value per channel, computed by the graph itself."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    constants: tuple[ir.Value, ...]

    def keep_fixed(self) -> None:
        """Mark the constants so that they do not become parameters."""
        for value in self.constants:
            value.meta[FIXED_KEY] = True
            value.meta[LITERAL_KEY] = True

    def preprocessing(self, height: int, width: int) -> FoundPreprocessing:
        """The preprocessing that remains outside the graph: resizing to `height` x `width`, mean 0, std 1."""
        return preprocessing_outside(self.mean, self.std, height, width)


def find_input_normalisation(graph: ir.Graph) -> InputNormalisation | None:
    """The normalisation at the image input of a graph in canonical form; None if there is none."""
    images = graph.inputs[0] if len(graph.inputs) == 1 else None
    if images is None or images.shape is None or len(images.shape) != 4 or not isinstance(images.shape[1], int):
        return None
    channels = images.shape[1]
    first = _step(images, channels)
    if first is None:
        return None
    second = _step(first.result, channels)
    nodes = [first] if second is None or second.step.adds == first.step.adds else [first, second]
    found = mean_and_std([node.step for node in nodes], channels)
    return None if found is None else InputNormalisation(*found, tuple(node.constant for node in nodes))


@dataclass(frozen=True)
class _Node:
    step: ScalingStep
    constant: ir.Value
    result: ir.Value


def _step(value: ir.Value, channels: int) -> _Node | None:
    """The node that reads `value`, where it is the only one and adds or multiplies one constant per channel."""
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].node.op_type not in SCALING_OPERATORS:
        return None
    node = uses[0].node
    constant = node.inputs[1 - uses[0].idx]
    if constant is None or constant.const_value is None:
        return None
    array = np.asarray(constant.const_value.numpy())
    step = scaling_step(node.op_type, array, channels, constant_first=uses[0].idx == 1)
    return None if step is None else _Node(step, constant, node.outputs[0])
