"""Recognise a graph that normalises its own input, `(x - mean) / std`, as networks exported from MXNet do.

1. The graph has one input [N, C, H, W] with C = 1 or 3, and one node reads it.
2. That node, and the one after it, is an Add, Sub, Mul or Div with one constant per channel (or one for all).
3. The resulting factor 1 / std is positive for every channel.

Such a network expects raw pixels. Its mean and standard deviation are not trained: they stay fixed and are reported as
part of the preprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..records.preprocessing import Preprocessing
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
        channels = len(self.mean)
        order = "grey" if channels == 1 else "rgb"
        outside = Preprocessing(height, width, (0.0,) * channels, (1.0,) * channels, order)  # type: ignore[arg-type]
        inside = f"mean {[round(v, 4) for v in self.mean]}, std {[round(v, 4) for v in self.std]}"
        return FoundPreprocessing(outside, f"the graph normalises raw pixels itself: {inside}")


def find_input_normalisation(graph: ir.Graph) -> InputNormalisation | None:
    """The normalisation at the image input of a graph in canonical form; None if there is none."""
    images = graph.inputs[0] if len(graph.inputs) == 1 else None
    if images is None or images.shape is None or len(images.shape) != 4 or not isinstance(images.shape[1], int):
        return None
    channels = images.shape[1]
    first = _step(images, channels)
    if first is None or channels not in (1, 3):
        return None
    second = _step(first.result, channels)
    steps = [first] if second is None or second.adds == first.adds else [first, second]
    scale, shift = np.ones(channels), np.zeros(channels)
    for step in steps:
        if step.adds:
            shift = shift + step.numbers
        else:
            scale, shift = scale * step.numbers, shift * step.numbers
    if not np.isfinite(scale).all() or (scale <= 0).any():
        return None
    mean, std = -shift / scale, 1.0 / scale
    return InputNormalisation(tuple(mean.tolist()), tuple(std.tolist()), tuple(step.constant for step in steps))


@dataclass(frozen=True)
class _Step:
    adds: bool
    numbers: NDArray[np.float64]
    """One float64 value per channel: what is added, or the factor."""
    constant: ir.Value
    result: ir.Value


def _step(value: ir.Value, channels: int) -> _Step | None:
    """The node that reads `value`, where it is the only one and adds or multiplies one constant per channel."""
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    node = uses[0].node
    constant = node.inputs[1 - uses[0].idx]
    if constant is None or constant.const_value is None or (uses[0].idx == 1 and node.op_type in ("Sub", "Div")):
        return None
    array = np.asarray(constant.const_value.numpy())
    if array.dtype.kind != "f" or array.size not in (1, channels) or (array.size > 1 and array.shape[-2:] != (1, 1)):
        return None
    numbers = np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,))
    if node.op_type == "Sub":
        numbers = -numbers
    elif node.op_type == "Div":
        if not numbers.all():
            return None
        numbers = 1.0 / numbers
    return _Step(node.op_type in ("Add", "Sub"), numbers, constant, node.outputs[0])
