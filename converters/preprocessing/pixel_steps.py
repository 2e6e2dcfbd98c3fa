"""What a graph does with its image first, found in the protobuf: it may normalise pixels itself.

1. Nodes that leave the numbers of pixels as they are are followed: Identity, Cast, Dropout, Pad, Resize, a Clip to the
   range of pixels, Transpose between NCHW and NHWC, a Gather or Slice that reorders the channels, QuantizeLinear and
   DequantizeLinear.
2. Add, Sub, Mul and Div with constants, in a row, are the normalisation of `records.input_scaling`; so is a convolution
   of single pixels that keeps the channels apart, and a Split into channels that are normalised each and put together.
3. A BatchNormalization before any of them, as MXNet's `bn_data`, holds the mean and variance of what it is fed.
4. A value that several nodes read ends the search; Shape and Size do not count as readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    scaling_steps,
    statistics_range,
)

__all__ = ["input_scaling"]

_TRANSPARENT = ("Identity", "Cast", "Dropout", "Pad", "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear")
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

    def take(self, steps: Sequence[ScalingStep], operator: str) -> bool:
        """Add the steps of one node, if there are any."""
        self.steps += [ScalingStep(step.adds, self.outside(step.numbers)) for step in steps]
        self.operators += [operator] if steps else []
        return bool(steps)

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
        joined = _joined_channels(view, walk, node) if node.op_type == "Split" else None
        if joined is None and not (
            _follow(view, walk, node) or _add_step(view, walk, node) or _add_convolution(view, walk, node)
        ):
            break
        walk.value = joined or node.output[0]
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
    if node.op_type == "Clip":
        return not walk.steps and _keeps_pixels(view, node, attributes)
    if node.op_type == "Slice" and node.input[0] == walk.value and _reverses_channels(view, walk, node):
        walk.order = walk.order[::-1]
        return True
    return False


def _keeps_pixels(view: GraphView, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> bool:
    """Whether a Clip keeps all numbers from 0 to 255, or from 0 to 1."""
    bounds = [float(attributes.get("min", -np.inf)), float(attributes.get("max", np.inf))]
    for place, name in enumerate(node.input[1:3]):
        if name:
            constant = small_constant(view, name, 1)
            if constant is None:
                return False
            bounds[place] = float(constant.reshape(-1)[0])
    return bounds[0] <= 0 and bounds[1] >= 1


def _reverses_channels(view: GraphView, walk: _Walk, node: onnx.NodeProto) -> bool:
    """Whether a Slice is `[::-1]` along the channels."""
    numbers = [small_constant(view, name, 1) if name else None for name in node.input[1:5]]
    if len(numbers) != 4 or any(number is None for number in numbers):
        return False
    start, end, axis, step = (int(number.reshape(-1)[0]) for number in numbers if number is not None)
    return (
        axis % 4 == walk.axis
        and step == -1
        and list(range(walk.channels))[start:end:step] == list(range(walk.channels))[::-1]
    )


def _add_step(view: GraphView, walk: _Walk, node: onnx.NodeProto) -> bool:
    if node.op_type not in SCALING_OPERATORS or list(node.input).count(walk.value) != 1:
        return False
    index = list(node.input).index(walk.value)
    constant = small_constant(view, node.input[1 - index], _LARGEST_IMAGE)
    if constant is None:
        return False
    steps = scaling_steps(node.op_type, constant, walk.channels, constant_first=index == 1, channel_axis=walk.axis)
    return walk.take(steps, node.op_type)


def _add_convolution(view: GraphView, walk: _Walk, node: onnx.NodeProto) -> bool:
    """Whether the node, before any step, is a convolution of single pixels that keeps the channels apart."""
    if node.op_type != "Conv" or walk.steps or node.input[0] != walk.value or walk.axis != 1:
        return False
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    channels, groups = walk.channels, int(attributes.get("group", 1))
    weight = small_constant(view, node.input[1], channels * channels)
    moves = any(attributes.get("pads", ())) or any(stride != 1 for stride in attributes.get("strides", ()))
    if weight is None or moves or weight.shape != (channels, channels // groups, 1, 1):
        return False
    matrix = weight.reshape(channels, -1).astype(np.float64)
    if groups == 1 and np.count_nonzero(matrix - np.diag(np.diag(matrix))):
        return False
    factors = np.diag(matrix) if groups == 1 else matrix[:, 0]
    steps = [ScalingStep(False, factors)]
    if len(node.input) > 2 and node.input[2]:
        bias = small_constant(view, node.input[2], channels)
        if bias is None or bias.size != channels:
            return False
        steps.append(ScalingStep(True, bias.reshape(-1).astype(np.float64)))
    return walk.take(steps, node.op_type)


def _joined_channels(view: GraphView, walk: _Walk, split: onnx.NodeProto) -> str | None:
    """The value in which the channels of a Split are one image again, each scaled by itself; None for anything else."""
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in split.attribute}
    if int(attributes.get("axis", 0)) % 4 != walk.axis or len(split.output) != walk.channels or walk.channels == 1:
        return None
    alone, ends = [], []
    for name in split.output:
        channel = _Walk(name, walk.axis, np.arange(1))
        node = _only_reader(view, channel.value)
        while node is not None and node.op_type != "Concat" and _add_step(view, channel, node):
            channel.value = node.output[0]
            node = _only_reader(view, channel.value)
        if node is None or node.op_type != "Concat":
            return None
        alone.append(channel)
        ends.append(node)
    join = ends[0]
    axis = next((entry.i for entry in join.attribute if entry.name == "axis"), 0)
    values = [channel.value for channel in alone]
    if any(end is not join for end in ends) or axis % 4 != walk.axis or sorted(join.input) != sorted(values):
        return None
    kinds = {tuple(step.adds for step in channel.steps) for channel in alone}
    if len(kinds) != 1:
        return None
    for place, adds in enumerate(kinds.pop()):
        numbers = np.concatenate([channel.steps[place].numbers for channel in alone])
        walk.steps.append(ScalingStep(adds, walk.outside(numbers)))
    walk.operators += alone[0].operators
    walk.order = walk.order[[values.index(name) for name in join.input]]
    return str(join.output[0])


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
