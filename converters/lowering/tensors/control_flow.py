"""If, Loop and Scan, resolved at conversion: one branch is chosen, loops of known length are unrolled.

A branch or body is lowered node by node like the rest of the graph, once per iteration, so that torch sees a plain
graph. A condition or length that is known only at run time is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ..graph_builder import Weight
from ..operation import Lowered, Op, Result
from ..registry import lowers
from ..subgraphs import lower_copy, make_constant, refused_inside
from .squeezing import size_of, squeezed_axis

__all__: list[str] = []

_LARGEST = 20_000
"""Nodes; a longer unrolled loop is refused, because it would take too long to convert."""


@lowers("If", since=1, seen=25)
def if_(op: Op) -> Lowered:
    """The branch that the constant condition selects; or a `squeeze`, which TorchScript writes as If."""
    condition = op.constant(0)
    if condition is None:
        squeezed = squeezed_axis(op.value(0), _graph(op, "then_branch"), _graph(op, "else_branch"))
        if squeezed is None or squeezed[0] not in op.environment:
            raise op.refuse("its condition is known only at run time; re-export the branch that is needed")
        size = size_of(squeezed[0], squeezed[1], op.environment)
        if size is None:
            return op.call(torch.squeeze, op.environment[squeezed[0]], squeezed[1])
        condition = np.array(size == 1)
    branch = _graph(op, "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    return _results(op, lower_copy(op, branch, [], "taken"))


@lowers("Loop", since=1, seen=25)
def loop(op: Op) -> Lowered:
    """One copy of the body per iteration, for a constant trip count or until the condition is the constant false."""
    count, first = op.constant(0), op.constant(1)
    if (op.has(0) and count is None) or (op.has(1) and first is None) or (not op.has(0) and not op.has(1)):
        raise op.refuse("its trip count or condition is known only at run time; re-export it unrolled")
    body, states = _graph(op, "body"), [op.value(index) for index in range(2, op.count)]
    limit = _LARGEST if count is None else int(count.reshape(-1)[0])
    running, iteration = first is None or bool(first.reshape(-1)[0]), 0
    collected: list[list[ir.Value]] = [[] for _ in body.outputs[1 + len(states) :]]
    while running and iteration < limit:
        _check_size(op, body, iteration + 1)
        inputs = [_constant(np.array(iteration)), _constant(np.array(True)), *states]
        goes_on, *values = lower_copy(op, body, inputs, str(iteration))
        states = values[: len(states)]
        for pieces, value in zip(collected, values[len(states) :], strict=True):
            pieces.append(value)
        running, iteration = _is_true(op, goes_on), iteration + 1
    return _results(op, [*states, *(_stacked(op, pieces, 0) for pieces in collected)])


@lowers("Scan", since=9, seen=25)
def scan(op: Op) -> Lowered:
    """One copy of the body per entry of the scanned axes."""
    body, scanned = _graph(op, "body"), op.attr_int("num_scan_inputs")
    first = op.count - scanned
    states, sequences = ([op.value(i) for i in indices] for indices in (range(first), range(first, op.count)))
    outputs = len(body.outputs) - first
    axes = op.attr_ints("scan_input_axes", [0] * scanned) or []
    backwards = op.attr_ints("scan_input_directions", [0] * scanned) or []
    length = _length(op, first, axes)
    _check_size(op, body, length)
    collected: list[list[ir.Value]] = [[] for _ in range(outputs)]
    for step in range(length):
        places = [length - 1 - step if reverse else step for reverse in backwards]
        entries = [_entry(op, *chosen) for chosen in zip(sequences, axes, places, strict=True)]
        values = lower_copy(op, body, [*states, *entries], str(step))
        states = values[:first]
        for pieces, value in zip(collected, values[first:], strict=True):
            pieces.append(value)
    out_axes = op.attr_ints("scan_output_axes", [0] * outputs) or []
    reversed_ = op.attr_ints("scan_output_directions", [0] * outputs) or []
    ordered = [pieces[::-1] if reverse else pieces for pieces, reverse in zip(collected, reversed_, strict=True)]
    return _results(op, [*states, *(_stacked(op, p, axis) for p, axis in zip(ordered, out_axes, strict=True))])


def _graph(op: Op, name: str) -> ir.Graph:
    graph = op.raw_attribute(name)
    if not isinstance(graph, ir.Graph):
        raise op.refuse(f"its {name} is missing; re-export the model")
    return graph


def _length(op: Op, first: int, axes: Sequence[int]) -> int:
    sizes = {op.size(first + position, axis) for position, axis in enumerate(axes)}
    size = sizes.pop() if len(sizes) == 1 else None
    if not isinstance(size, int) or size < 1:
        raise op.refuse("the length of what it scans is known only at run time; give the graph inputs fixed sizes")
    return size


def _check_size(op: Op, body: ir.Graph, iterations: int) -> None:
    if iterations * max(len(body), 1) > _LARGEST:
        raise op.refuse(f"unrolled it would have more than {_LARGEST} nodes; re-export it without the loop")


def _constant(array: NDArray[Any]) -> ir.Value:
    return make_constant(ir.Value(name=f"constant_{array.dtype}"), ir.tensor(array))


def _is_true(op: Op, value: ir.Value) -> bool:
    known = Op(ir.Node("", "Identity", inputs=[value]), op.opset, op.builder, op.environment).constant(0)
    if known is None:
        raise op.refuse("whether the loop continues is known only at run time; re-export it unrolled")
    return bool(known.reshape(-1)[0])


def _emit(op: Op, kind: str, inputs: Sequence[ir.Value], **attributes: int | list[int]) -> ir.Value:
    node = ir.node(kind, list(inputs), attributes, name=op.node.name, metadata_props=dict(op.node.metadata_props))
    node.outputs[0].name = f"{op.node.name}_{kind}"
    op.lower_node(node)
    return node.outputs[0]


def _entry(op: Op, sequence: ir.Value, axis: int, place: int) -> ir.Value:
    return _emit(op, "Gather", [sequence, _constant(np.array(place))], axis=axis)


def _stacked(op: Op, pieces: Sequence[ir.Value], axis: int) -> ir.Value:
    if not pieces:
        raise op.refuse("it runs zero times, and the shape of its output is unknown; re-export it without the loop")
    if op.opset < 13:
        rows = [_emit(op, "Unsqueeze", [piece], axes=[axis]) for piece in pieces]
    else:
        rows = [_emit(op, "Unsqueeze", [piece, _constant(np.array([axis]))]) for piece in pieces]
    return _emit(op, "Concat", rows, axis=axis)


def _results(op: Op, values: Sequence[ir.Value]) -> list[Result]:
    return list(_each_result(op, values))


def _each_result(op: Op, values: Sequence[ir.Value]) -> Iterator[Result]:
    for output, value in zip(op.node.outputs, values, strict=False):
        known = op.environment.get(value)
        if known is None and value.const_value is None:
            raise refused_inside(op, value)
        output.type, output.shape = value.type, value.shape
        yield known if known is not None else op.builder.attribute(Weight(value), op.node, trainable=False)
