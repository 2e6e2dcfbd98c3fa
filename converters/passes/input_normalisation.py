"""Keep the constants fixed with which a graph normalises its own input, `(x - mean) / std`, as MXNet's exports do.

The graph has one input, an image, one node reads it, and that node and those after it are steps of
`records.input_scaling`, or leave the numbers of pixels as they are; after a Split, each channel has its own steps. Mean
and standard deviation are not weights, so they are not trained. Which preprocessing such a network gets is decided in
`preprocessing.decision`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..records.input_scaling import SCALING_OPERATORS, ScalingStep, mean_and_std, scaling_steps
from .constants.constant_folding import FIXED_KEY, LITERAL_KEY

__all__ = ["keep_normalisation_fixed"]

_MOST_NODES = 12
_CHANNELS = (1, 3)
_PASSED = frozenset({"Identity", "Cast", "Dropout", "Pad", "Resize", "Upsample", "Clip", "Gather", "Slice"})


def keep_normalisation_fixed(graph: ir.Graph) -> bool:
    """Mark the constants of the normalisation at the input, so that they do not become parameters.

    Returns:
        Whether the graph, which is in canonical form, normalises its input.
    """
    images = graph.inputs[0] if len(graph.inputs) == 1 else None
    if images is None or images.shape is None or len(images.shape) != 4:
        return False
    axis = 3 if images.shape[3] in _CHANNELS and images.shape[1] not in _CHANNELS else 1
    channels = images.shape[axis]
    if not isinstance(channels, int):
        return False
    rows = [_row(images, channels, axis)]
    last = rows[0].reader
    if last is not None and last.op_type == "Split" and len(last.outputs) == channels:
        rows += [_row(channel, 1, rows[0].axis) for channel in last.outputs]
    found = [row for row in rows if mean_and_std(row.steps, row.channels) is not None]
    for row in found:
        for constant in row.constants:
            constant.meta[FIXED_KEY] = True
            constant.meta[LITERAL_KEY] = True
    return bool(found)


@dataclass
class _Row:
    """Nodes behind one another that follow an image or one of its channels."""

    channels: int
    axis: int
    """Of the channels."""
    steps: list[ScalingStep] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    reader: ir.Node | None = None
    """The only reader behind the last of them."""


def _row(value: ir.Value, channels: int, axis: int) -> _Row:
    """The steps of a normalisation from `value` on; what leaves the numbers of pixels as they are is passed over."""
    row = _Row(channels, axis)
    for _ in range(_MOST_NODES):
        uses = [use for use in value.uses() if use.node.op_type not in ("Shape", "Size")]
        row.reader = uses[0].node if len(uses) == 1 else None
        if row.reader is None:
            break
        if row.reader.op_type == "Transpose" and uses[0].idx == 0:
            order = list(row.reader.attributes.get_ints("perm", ()))
            if sorted(order) != [0, 1, 2, 3]:
                break
            row.axis = order.index(row.axis)
        elif row.reader.op_type in SCALING_OPERATORS:
            if not _take(row, row.reader, uses[0].idx):
                break
        elif row.reader.op_type not in _PASSED or uses[0].idx != 0:
            break
        value = row.reader.outputs[0]
    return row


def _take(row: _Row, node: ir.Node, index: int) -> bool:
    """Whether the node, which reads the image as its input `index`, adds or multiplies one constant per channel."""
    constant = node.inputs[1 - index]
    if constant is None or constant.const_value is None:
        return False
    array = np.asarray(constant.const_value.numpy())
    steps = scaling_steps(node.op_type, array, row.channels, constant_first=index == 1, channel_axis=row.axis)
    row.steps += steps
    row.constants += [constant] if steps else []
    return bool(steps)
