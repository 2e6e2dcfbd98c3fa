"""What a graph does with its image first, found in the protobuf: it may normalise pixels itself.

1. Nodes that leave the numbers as they are are followed: Identity, Cast, Dropout, Transpose between NCHW and NHWC, a
   Gather that reorders the channels, QuantizeLinear and DequantizeLinear.
2. Add, Sub, Mul and Div with constants, in a row, are the normalisation of `records.input_scaling`.
3. A BatchNormalization before any of them, as MXNet's `bn_data`, holds the mean and variance of what it is fed.
4. A value that several nodes read ends the search; Shape and Size do not count as readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..graphs.graph_view import GraphView
from ..graphs.small_constants import small_constant
from ..records.input_scaling import (
    SCALING_OPERATORS,
    InputScaling,
    ScalingStep,
    mean_and_std,
    pixel_range,
    scaling_step,
    statistics_range,
)

__all__ = ["input_scaling"]

_TRANSPARENT = ("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear")
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_MOST_NODES = 12
_LARGEST_IMAGE = 3 * 1024 * 1024
"""Elements of a mean image."""


@dataclass
class _Walk:
    """Where the search is: at `value`, whose channels lie on `axis` and are those of the input in another `order`."""

    value: str
    axis: int
    order: NDArray[np.int64]
    steps: list[ScalingStep] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        return len(self.order)

    def outside(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers per channel in the order of the input."""
        placed = np.empty_like(numbers)
        placed[self.order] = numbers
        return placed


def input_scaling(view: GraphView, value: str, channels: int, *, channel_axis: int = 1) -> InputScaling | None:
    """The normalisation of pixels at the input `value` of a graph; None where it does none.

    Args:
        view: the graph.
        value: the name of its image input, of 4 axes.
        channels: 1 or 3.
        channel_axis: 1 for NCHW, 3 for NHWC.
    """
    walk = _Walk(value, channel_axis, np.arange(channels))
    for _ in range(_MOST_NODES):
        node = _only_reader(view, walk.value)
        if node is None:
            break
        if node.op_type == "BatchNormalization" and not walk.steps:
            return _by_statistics(view, walk, node)
        if not (_follow(view, walk, node) or _add_step(view, walk, node)):
            break
        walk.value = node.output[0]
    found = mean_and_std(walk.steps, channels)
    limit = None if found is None else pixel_range(*found)
    return None if found is None or limit is None else InputScaling(*found, tuple(walk.operators), limit)


def _only_reader(view: GraphView, value: str) -> onnx.NodeProto | None:
    readers = [node for node in view.nodes if value in node.input and node.op_type not in ("Shape", "Size")]
    return readers[0] if len(readers) == 1 else None


def _follow(view: GraphView, walk: _Walk, node: onnx.NodeProto) -> bool:
    """Whether the node leaves the numbers as they are, rule 1."""
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type in _TRANSPARENT:
        return str(node.input[0]) == walk.value
    if node.op_type == "Transpose":
        order = tuple(attributes.get("perm", ()))
        if order not in (_TO_NCHW, _TO_NHWC):
            return False
        walk.axis = order.index(walk.axis)
        return True
    if node.op_type == "Gather" and int(attributes.get("axis", 0)) % 4 == walk.axis and node.input[0] == walk.value:
        indices = small_constant(view, node.input[1], walk.channels)
        if indices is None or sorted(indices.reshape(-1).tolist()) != list(range(walk.channels)):
            return False
        walk.order = walk.order[indices.reshape(-1)]
        return True
    return False


def _add_step(view: GraphView, walk: _Walk, node: onnx.NodeProto) -> bool:
    if node.op_type not in SCALING_OPERATORS or list(node.input).count(walk.value) != 1:
        return False
    index = list(node.input).index(walk.value)
    constant = small_constant(view, node.input[1 - index], _LARGEST_IMAGE)
    if constant is None:
        return False
    step = scaling_step(node.op_type, constant, walk.channels, constant_first=index == 1, channel_axis=walk.axis)
    if step is None:
        return False
    walk.steps.append(ScalingStep(step.adds, walk.outside(step.numbers)))
    walk.operators.append(node.op_type)
    return True


def _by_statistics(view: GraphView, walk: _Walk, node: onnx.NodeProto) -> InputScaling | None:
    """The running mean and deviation of a BatchNormalization, which are those of the images it was trained on."""
    if len(node.input) < 5 or walk.axis != 1:
        return None
    mean, variance = (small_constant(view, name, walk.channels) for name in node.input[3:5])
    if mean is None or variance is None or not _are_statistics((mean, variance), walk.channels):
        return None
    means, stds = walk.outside(mean.astype(np.float64)), walk.outside(np.sqrt(variance.astype(np.float64)))
    limit = statistics_range(means.tolist(), stds.tolist())
    return None if limit is None else InputScaling(tuple(means.tolist()), tuple(stds.tolist()), (node.op_type,), limit)


def _are_statistics(arrays: Sequence[NDArray[Any]], channels: int) -> bool:
    mean, variance = arrays
    return mean.shape == variance.shape == (channels,) and bool(np.isfinite(mean).all() and (variance > 0).all())
