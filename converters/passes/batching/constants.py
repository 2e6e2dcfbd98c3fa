"""Rewrite the constants of a graph that depend on its fixed batch.

A constant is changed only where `axes` finds the batch axis of the value it applies to, or where it copies one
row once per image:

1. Reshape: the size of the batch axis in the target shape becomes the new one (-1, or computed, when dynamic).
2. Expand, Tile: a repeat count equal to the batch becomes the new batch; an Expand of a value that already has the
   batch keeps that axis.
3. Slice: an end that takes the whole batch takes any whole batch.
4. Concat, GridSample: an input that lacks the batch, and has one row or equal rows, is expanded to one row per image.
5. MatMul: a constant that stacks equal matrices once per image is expanded from one.
6. LSTM, GRU, RNN: an initial state of zeros is dropped (zeros are the default), any other with equal rows is expanded.
7. Element-wise operators: a constant with equal rows, one per image, becomes one row, which broadcasts.
8. Resize: the size of the batch axis among its target sizes becomes the new batch.
9. Gather: constant indices that pick the same places of every image, along an axis that holds image after image (a
   strided view of exporters), pick them in one image, for all images.
10. If: the branch that is taken at any batch takes its place; TorchScript writes a `squeeze` so.

Constants that no rule covers stay, and the verification in `batch` then refuses the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .axes import BatchAxes, BatchAxis, Sizes, aligned_axes
from .choices import BatchChoices, BatchConflictError
from .new_nodes import Batch, BatchNodes
from .semantics import BROADCASTING

__all__ = ["Batch", "follow_batch"]

_ALL = np.iinfo(np.int64).max
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Indices of the inputs [directions, batch, hidden] that hold an initial state."""


def follow_batch(
    model: ir.Model, current: int, batch: Batch, sizes: Mapping[str, Sizes], choices: BatchChoices
) -> None:
    """Rewrite, in place, the constants of `model` that depend on the batch `current`.

    Args:
        model: a graph whose inputs already state the new batch.
        current: the old batch, which the constants hold.
        batch: the new batch.
        sizes: value name -> shape at the old batch.
        choices: what is taken where several axes may be the batch.

    Raises:
        BatchConflictError: what was taken does not fit.
    """
    _Following(model, current, batch, sizes, choices).run()


class _Following:
    """One walk through a graph that applies the rules of the module."""

    def __init__(
        self, model: ir.Model, current: int, batch: Batch, sizes: Mapping[str, Sizes], choices: BatchChoices
    ) -> None:
        self.graph, self.current, self.batch, self.choices = model.graph, current, batch, choices
        self.axes = BatchAxes(model, current, sizes)
        for value in self.graph.inputs:
            if not value.is_initializer() and (sizes.get(value.name or "") or [None])[0] == current:
                self.axes.axes[value] = BatchAxis(0)
        self.new = BatchNodes(self.axes, model.graph, batch, next(iter(self.axes.axes), None))

    def run(self) -> None:
        """Follow the batch from the inputs to the outputs.

        Raises:
            BatchConflictError: what was chosen does not fit.
        """
        self._walk(list(self.graph))
        for value in self.graph.outputs:
            at = self.axes.axes.get(value)
            if at is not None and (at.axis or at.rows != 1):
                raise BatchConflictError(f"output {value.name!r} has its images at axis {at.axis}, {at.rows} rows each")

    def _walk(self, nodes: Sequence[ir.Node]) -> None:
        for node in nodes:
            match node.op_type:
                case "Reshape":
                    self._reshape(node)
                    continue
                case "If":
                    self._branch(node)
                    continue
                case "Expand" | "Tile":
                    self._copies(node)
                case "Slice":
                    self._slice(node)
                case "Resize":
                    self._resize(node)
                case "Gather":
                    self._gather(node)
                case "Concat" | "GridSample":
                    self._concat(node)
                case "MatMul":
                    self._matrices(node)
                case "LSTM" | "GRU" | "RNN":
                    self._states(node)
                case operator if operator in BROADCASTING:
                    self._broadcast(node)
            self.axes.follow(node)

    def _reshape(self, node: ir.Node) -> None:
        data, shape = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
        if data is None or data not in self.axes.axes:
            self.axes.follow(node)  # it may hold numbers
            return
        if shape in self.axes.numbers:
            self.axes.follow(node)  # finds the sizes of the output
        else:
            self.axes.complete_sizes(node)
        sizes, around = self.axes.sizes_of(node.outputs[0]), self.axes.outer_and_inner(data)
        numbers = _numbers(shape)
        if sizes is not None and None not in sizes and around is not None:
            known = [size for size in sizes if size is not None]
            options = aligned_axes(known, *around, self.current)
            kind = (node.op_type, tuple(self.axes.sizes_of(data) or ()), self.axes.axes[data], tuple(known))
            at = self.choices.take(options, node, kind)
        else:  # dynamic sizes: the first axis, if its size is the same before and after
            before = self.axes.axes[data]
            rows = before.rows * self.current
            at = before if before.axis == 0 and numbers and numbers[0] in (0, -1, rows) else None
        if at is None:
            self.axes.follow(node)
            return
        self.axes.axes[node.outputs[0]] = at
        if numbers is None or numbers[at.axis] in (0, -1):
            return
        if self.batch == "dynamic" and -1 in numbers and sizes is not None and None not in sizes:
            numbers = [
                number if size is None or number != -1 else size for number, size in zip(numbers, sizes, strict=True)
            ]
        if self.batch == "dynamic" and -1 in numbers:
            node.replace_input_with(1, self.new.shape(numbers, at))
        else:
            numbers[at.axis] = -1 if self.batch == "dynamic" else at.rows * self.batch
            node.replace_input_with(1, self.new.integers(numbers, f"{node.outputs[0].name}_shape"))
        if 0 not in numbers:
            node.attributes.pop("allowzero", None)

    def _branch(self, node: ir.Node) -> None:
        """Rule 10."""
        condition = self.axes.both(node.inputs[0]) if node.inputs[0] is not None else None
        if condition is None:
            self.axes.follow(node)
            return
        if bool(condition[0].reshape(-1)[0]) != bool(condition[1].reshape(-1)[0]):
            raise BatchConflictError(f"node {node.name!r} (If) takes another branch at another batch")
        branch = node.attributes["then_branch" if bool(condition[0].reshape(-1)[0]) else "else_branch"].as_graph()
        if branch.initializers:
            return
        results, nodes = list(branch.outputs), list(branch)
        branch.remove(nodes)
        for moved in nodes:
            for value in moved.outputs:  # names of branches repeat
                value.name = self.new.name(value.name or "value")
        self.graph.insert_before(node, nodes)
        for old, new in zip(list(node.outputs), results, strict=True):
            if old.is_graph_output():
                new = self.new.node("Identity", [new], after=new)
                new.name, old.name = old.name, self.new.name(old.name or "output")
                self.graph.outputs[list(self.graph.outputs).index(old)] = new
                nodes += [producer for producer in (new.producer(),) if producer is not None]
            old.replace_all_uses_with(new)
        self.graph.remove(node, safe=True)
        self._walk(nodes)

    def _copies(self, node: ir.Node) -> None:
        """Rule 2."""
        data, numbers = node.inputs[0], _numbers(node.inputs[1])
        if data is None:
            return
        if node.op_type == "Expand" and node.inputs[1] in self.axes.numbers:
            self._copied_at_run_time(node)
        if not numbers or any(number < 1 for number in numbers):
            return
        at = self.axes.axes.get(data)
        if at is not None:
            sizes = self.axes.sizes_of(data) or []
            grows = at.axis + len(numbers) - len(sizes)
            if node.op_type == "Expand" and sizes and numbers[grows] == at.rows * self.current:
                numbers[grows] = 1  # Expand keeps an axis whose target size is 1
                node.replace_input_with(1, self.new.integers(numbers, f"{node.outputs[0].name}_shape"))
            return
        axis = self._copied_axis(node, self.axes.sizes_of(data), numbers)
        if axis is None:
            return
        if node.op_type == "Expand" and self.axes.sizes_of(node.outputs[0]) is None:
            self.axes.sizes[node.outputs[0]] = list(numbers)
        node.replace_input_with(1, self.new.shape(numbers, BatchAxis(axis)))
        self.axes.axes[node.outputs[0]] = BatchAxis(axis)

    def _copied_at_run_time(self, node: ir.Node) -> None:
        """An Expand whose shape is computed from the batch may still copy a constant with one row per image."""
        data, shape = node.inputs
        assert data is not None
        assert shape is not None
        now, more = self.axes.numbers[shape]
        for axis in np.flatnonzero(now != more):
            rank = 0 if data.const_value is None else len(data.const_value.shape)
            row = self._one_row(data, int(axis) - len(now) + rank) if rank > len(now) - axis - 1 else None
            if row is not None:
                node.replace_input_with(0, row)

    def _copied_axis(self, node: ir.Node, sizes: Sizes | None, numbers: Sequence[int]) -> int | None:
        """The axis along which one row is copied once per image; with a batch of 1, only axis 0 counts."""
        if sizes is None:
            return 0 if numbers[0] == self.current else None
        aligned = [1] * (len(numbers) - len(sizes)) + list(sizes)
        axes = [axis for axis, number in enumerate(numbers) if number == self.current and aligned[axis] == 1]
        if any(
            reader.op_type in _STATES and index in _STATES[reader.op_type] for reader, index in node.outputs[0].uses()
        ):
            return 1 if 1 in axes else None
        return next((axis for axis in axes if axis == 0 or self.current > 1), None)

    def _slice(self, node: ir.Node) -> None:
        """Rule 3."""
        data = node.inputs[0]
        at = None if data is None else self.axes.axes.get(data)
        if at is None or len(node.inputs) < 3:
            return
        starts, ends = _numbers(node.inputs[1]), _numbers(node.inputs[2])
        if starts is None or ends is None:
            return
        axes = _numbers(node.inputs[3]) if len(node.inputs) > 3 else list(range(len(starts)))
        steps = _numbers(node.inputs[4]) if len(node.inputs) > 4 else [1] * len(starts)
        rank = len((self.axes.sizes_of(data) if data is not None else None) or [])
        for index, axis in enumerate(axes or []):
            whole = starts[index] == 0 and ends[index] >= at.rows * self.current and (steps or [0])[index] == 1
            if axis % max(rank, 1) == at.axis and whole:
                ends[index] = _ALL
                node.replace_input_with(2, self.new.integers(ends, f"{node.outputs[0].name}_ends"))

    def _resize(self, node: ir.Node) -> None:
        """Rule 8."""
        data, sizes = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
        at, numbers = None if data is None else self.axes.axes.get(data), _numbers(sizes)
        if at is None or numbers is None or node.attributes.get("axes") is not None or at.axis >= len(numbers):
            return
        if numbers[at.axis] == at.rows * self.current:
            node.replace_input_with(3, self.new.shape(numbers, at))

    def _gather(self, node: ir.Node) -> None:
        """Rule 9."""
        data, indices = node.inputs[0], ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] else None
        at = None if data is None else self.axes.axes.get(data)
        sizes = None if data is None else self.axes.sizes_of(data)
        if data is None or at is None or sizes is None or None in sizes or indices is None or at.inside != 1:
            return
        chosen, axis = np.asarray(indices.numpy()), node.attributes.get_int("axis", 0) % len(sizes)
        if axis != at.axis or not chosen.ndim or len(chosen) != self.current:
            return
        chosen = np.where(chosen < 0, chosen + at.rows * self.current, chosen)
        first = at.rows * np.arange(self.current).reshape(-1, *[1] * (chosen.ndim - 1))
        if (chosen - first != chosen[:1]).any() or chosen[:1].max(initial=0) >= at.rows:
            return
        numbers = [size for size in sizes if size is not None]
        new = -1 if self.batch == "dynamic" else self.batch
        target = self.new.integers([*numbers[:axis], new, at.rows, *numbers[axis + 1 :]], "images")
        split = ir.node("Reshape", [data, target], name=self.new.name("images"))
        split.outputs[0].name, split.outputs[0].type = f"{split.name}_out", data.type
        self.graph.insert_before(node, split)
        self.axes.sizes[split.outputs[0]] = [*numbers[:axis], self.current, at.rows, *numbers[axis + 1 :]]
        self.axes.axes[split.outputs[0]] = BatchAxis(axis)
        node.replace_input_with(0, split.outputs[0])
        node.replace_input_with(1, self.new.weight(chosen[0].astype(np.int64), f"{node.outputs[0].name}_indices"))
        node.attributes["axis"] = ir.AttrInt64("axis", axis + 1)

    def _concat(self, node: ir.Node) -> None:
        """Rule 4."""
        at = next(
            (self.axes.axes[value] for value in node.inputs if value is not None and value in self.axes.axes), None
        )
        if at is None or at.rows != 1:
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value not in self.axes.axes:
                self._copy_row(node, index, value, at.axis)

    def _matrices(self, node: ir.Node) -> None:
        """Rule 5; exporters expand the queries of an attention pooling so."""
        for index, value in enumerate(node.inputs):
            sizes = None if value is None or value.const_value is None else self.axes.sizes_of(value)
            if value is None or sizes is None or len(sizes) < 3 or self.current == 1:
                continue
            axis = next((axis for axis in range(len(sizes)) if self._row(value, axis) is not None), None)
            if axis is not None:
                self._copy_row(node, index, value, axis)

    def _states(self, node: ir.Node) -> None:
        """Rule 6."""
        for index in _STATES[node.op_type]:
            value = node.inputs[index] if len(node.inputs) > index else None
            if value is None or value in self.axes.axes:
                continue
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is not None and not np.asarray(tensor.numpy()).any():
                node.replace_input_with(index, None)
            else:
                self._copy_row(node, index, value, 1)

    def _copy_row(self, node: ir.Node, index: int, value: ir.Value, axis: int) -> None:
        sizes = self.axes.sizes_of(value)
        if sizes is None or len(sizes) <= axis:
            return
        row = value if sizes[axis] == 1 else self._one_row(value, axis)
        if row is None:
            return
        expand = ir.node("Expand", [row, self.new.shape([1] * len(sizes), BatchAxis(axis))], name=self.new.name("rows"))
        copied = expand.outputs[0]
        copied.name, copied.type = f"{expand.name}_out", value.type
        self.graph.insert_before(node, expand)
        node.replace_input_with(index, copied)
        self.axes.sizes[copied] = [*sizes[:axis], self.current, *sizes[axis + 1 :]]
        self.axes.axes[copied] = BatchAxis(axis)

    def _broadcast(self, node: ir.Node) -> None:
        """Rule 7."""
        grown = [value for value in node.inputs if value is not None and value in self.axes.axes]
        for value in grown:
            sizes = self.axes.sizes_of(value)
            from_end = len(sizes) - self.axes.axes[value].axis if sizes is not None else 0
            for index, other in enumerate(node.inputs):
                rank = 0 if other is None or other.const_value is None else len(other.const_value.shape)
                if other is None or not 0 < from_end <= rank or self.current == 1:
                    continue
                row = self._one_row(other, rank - from_end)
                if row is not None:
                    node.replace_input_with(index, row)

    def _row(self, value: ir.Value, axis: int) -> NDArray[Any] | None:
        """One entry of a constant along `axis`; None unless it has one entry per image and all are equal."""
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.shape[axis] != self.current:
            return None
        array = np.asarray(tensor.numpy())
        row = array.take([0], axis=axis)
        return None if (array != row).any() else row

    def _one_row(self, value: ir.Value, axis: int) -> ir.Value | None:
        row = self._row(value, axis)
        return None if row is None else self.new.weight(row, f"{value.name}_row")


def _numbers(value: ir.Value | None) -> list[int] | None:
    """The values of a constant of integers; None for anything else."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in np.asarray(tensor.numpy()).reshape(-1)]
