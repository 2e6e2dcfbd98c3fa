"""New nodes and constants of a graph whose batch is rewritten: shapes that follow the batch, under free names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .axes import BatchAxes, BatchAxis

__all__ = ["Batch", "BatchNodes"]

Batch = int | Literal["dynamic"]
"""A number of images, or any number of them."""


class BatchNodes:
    """Adds to one graph; `source` is an input whose axis 0 is the new batch, which is read at run time."""

    def __init__(self, axes: BatchAxes, graph: ir.Graph, batch: Batch, source: ir.Value | None) -> None:
        self.axes, self.graph, self.batch, self.source = axes, graph, batch, source
        nodes = list(graph.all_nodes())
        self.names = {node.name for node in nodes} | {value.name for node in nodes for value in node.outputs}
        self.names |= {*graph.initializers, *(value.name for value in graph.inputs)}
        self.size: ir.Value | None = None

    def shape(self, numbers: Sequence[int], at: BatchAxis) -> ir.Value:
        """`numbers` with the batch at axis `at`: a constant, or computed from the input when the batch is dynamic."""
        shape = self._at_new_batch(numbers, at)
        both = [
            [*numbers[: at.axis], at.rows * size, *numbers[at.axis + 1 :]]
            for size in (self.axes.batch, self.axes.batch + 1)
        ]
        self.axes.numbers[shape] = np.array(both[0], np.int64), np.array(both[1], np.int64)
        return shape

    def _at_new_batch(self, numbers: Sequence[int], at: BatchAxis) -> ir.Value:
        if self.batch != "dynamic":
            return self.integers([*numbers[: at.axis], at.rows * self.batch, *numbers[at.axis + 1 :]], "shape")
        parts = [self._batch_size()]
        if at.rows > 1:
            parts = [self.node("Mul", [parts[0], self.integers([at.rows], "rows_per_image")], after=parts[0])]
        if numbers[: at.axis]:
            parts.insert(0, self.integers(numbers[: at.axis], "shape_before"))
        if numbers[at.axis + 1 :]:
            parts.append(self.integers(numbers[at.axis + 1 :], "shape_behind"))
        if len(parts) == 1:
            return parts[0]
        return self.node("Concat", parts, after=next(part for part in parts if part.producer() is not None), axis=0)

    def _batch_size(self) -> ir.Value:
        """The number of images at run time, int64 [1]."""
        if self.size is None:
            assert self.source is not None
            shape = self.node("Shape", [self.source], after=None)
            self.size = self.node("Gather", [shape, self.integers([0], "first_axis")], after=shape)
        return self.size

    def node(self, operator: str, inputs: Sequence[ir.Value], *, after: ir.Value | None, **attributes: int) -> ir.Value:
        """A new node behind the producer of `after`, or first in the graph: its output, int64."""
        node = ir.node(operator, inputs, attributes, name=self.name(operator.lower()))
        node.outputs[0].name, node.outputs[0].type = f"{node.name}_out", ir.TensorType(ir.DataType.INT64)
        producer = None if after is None else after.producer()
        if producer is not None:
            self.graph.insert_after(producer, node)
        else:
            self.graph.insert_before(self.graph[0], node)
        return node.outputs[0]

    def integers(self, numbers: Sequence[int], name: str) -> ir.Value:
        """A new int64 constant of one axis."""
        return self.weight(np.array(numbers, dtype=np.int64), name)

    def weight(self, array: NDArray[Any], name: str) -> ir.Value:
        """A new initializer."""
        tensor = ir.tensor(np.ascontiguousarray(array), name=self.name(name))
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)  # type: ignore[arg-type]
        self.graph.register_initializer(value)
        return value

    def name(self, wanted: str) -> str:
        """`wanted`, made free; also for the output of a node of that name."""
        name, count = f"batch/{wanted}", 1
        while name in self.names:
            name, count = f"batch/{wanted}_{count}", count + 1
        self.names |= {name, f"{name}_out"}
        return name
