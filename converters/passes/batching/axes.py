"""Find the batch axis of every value in a graph whose batch is fixed.

1. The shapes of a node's outputs are inferred twice, for the batch N that the file states and for N + 1: the axis
   whose size differs is the batch axis.
2. Values computed from shapes (Shape, then integer arithmetic) are computed for both batches.
3. The target shape of a Reshape is often a constant, for which rule 1 fails. A Reshape keeps the order of elements in
   memory: the data is `outer` runs of N pieces of `inner` elements. The batch axis of the new shape is the axis whose
   borders fit these runs (`aligned_axes`).
4. Where inference fails, the first axis is assumed if N divides its size. `batch` verifies the result in any case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..constants.constant_folding import evaluate
from .choices import BatchConflictError
from .semantics import BROADCASTING, forbidden_axes

__all__ = ["BatchAxes", "BatchAxis", "Sizes", "aligned_axes"]

Sizes = list[int | None]
"""A shape; None is a dynamic size."""
_SMALL = 64
"""Elements; constants up to this size may be shapes, so inference receives their values."""


@dataclass(frozen=True)
class BatchAxis:
    """The axis that grows with the batch: its size is `rows * batch`, ordered as [inside, batch, rows / inside]."""

    axis: int
    rows: int = 1
    inside: int = 1
    """How often the batch repeats within the axis: T for an axis [T * batch], 1 for [batch * T]."""


def aligned_axes(sizes: Sequence[int], outer: int, inner: int, batch: int) -> list[BatchAxis]:
    """The axes of `sizes`, the new shape of `outer` x `batch` x `inner` elements, that may be the batch, best first.

    With a batch of 1 several axes fit: an axis of size 1 is preferred, the last axis (the features) comes last.
    """
    found: list[BatchAxis] = []
    before = 1
    for axis, size in enumerate(sizes):
        after = math.prod(sizes[axis + 1 :])
        if size % batch == 0 and before and after and outer % before == 0 and inner % after == 0:
            inside, rows = outer // before, size // batch
            if inside * (inner // after) == rows:
                found.append(BatchAxis(axis, rows, inside))
        before *= size
    last = len(sizes) - 1
    return sorted(found, key=lambda at: (at.rows != 1, at.axis == last, at.inside != 1, at.axis))


class BatchAxes:
    """Follow the batch through a graph node by node; the caller rewrites constants between the calls of `follow`."""

    def __init__(self, model: ir.Model, batch: int, sizes: Mapping[str, Sizes]) -> None:
        self.batch, self.opsets, self.named = batch, model.graph.opset_imports, sizes
        self.sizes: dict[ir.Value, Sizes] = {}
        self.axes: dict[ir.Value, BatchAxis] = {}
        self.numbers: dict[ir.Value, tuple[NDArray[Any], NDArray[Any]]] = {}
        """Values computed from shapes: at the batch N of the file, and at N + 1."""

    def sizes_of(self, value: ir.Value) -> Sizes | None:
        """The shape of `value` at the batch of the file; None where its rank is unknown."""
        if value.const_value is not None:
            return list(value.const_value.shape.numpy())
        if value in self.numbers:
            return list(self.numbers[value][0].shape)
        return self.sizes.get(value, self.named.get(value.name or ""))

    def outer_and_inner(self, value: ir.Value) -> tuple[int, int] | None:
        """`outer` and `inner` of `value`, see the module; None where its batch axis or a size is unknown."""
        sizes, at = self.sizes_of(value), self.axes.get(value)
        if at is None or sizes is None or None in sizes:
            return None
        known = [size for size in sizes if size is not None]
        outer = math.prod(known[: at.axis]) * at.inside
        return outer, math.prod(known) // (outer * self.batch) if outer else 0

    def follow(self, node: ir.Node) -> None:
        """Find the batch axis of each output of `node`; its inputs were followed before.

        Raises:
            BatchConflictError: its shapes fit no other batch, or an output that is read does not grow along one axis.
        """
        if self._follow_numbers(node):
            return
        grown = [value for value in node.inputs if value is not None and value in self.axes]
        if not grown and not any(value in self.numbers for value in node.inputs if value is not None):
            return
        self._check(node)
        now, more = self._infer(node, self.batch), self._infer(node, self.batch + 1)
        if now and not more:
            raise BatchConflictError(f"node {node.name!r} ({node.op_type}) fits the batch of the file and no other")
        for index, value in enumerate(node.outputs):
            sizes = self.sizes_of(value)
            if index in now and (sizes is None or None in sizes):
                sizes = self.sizes[value] = now[index]
            at = None
            if index in now and index in more and len(now[index]) == len(more[index]):
                pairs = enumerate(zip(now[index], more[index], strict=True))
                differing = [axis for axis, (size, other) in pairs if size != other]
                if grown and len(differing) != 1 and None not in now[index] and value.uses():
                    raise BatchConflictError(f"{value.name!r} has {len(differing)} axes that follow the batch")
                if len(differing) == 1:
                    size = now[index][differing[0]]
                    at = None if size is None else self._like(grown, differing[0], size // self.batch)
            elif grown and sizes and sizes[0] and sizes[0] % self.batch == 0:  # rule 4
                at = self._like(grown, 0, sizes[0] // self.batch)
            if at is not None:
                self.axes[value] = at

    def complete_sizes(self, node: ir.Node) -> None:
        """Infer the shapes of the outputs of `node` at the batch of the file, where they are not known."""
        for index, sizes in self._infer(node, self.batch).items():
            known = self.sizes_of(node.outputs[index])
            if known is None or None in known:
                self.sizes[node.outputs[index]] = sizes

    def _check(self, node: ir.Node) -> None:
        """Refuse a batch along an axis that `node` mixes, and inputs whose batches do not lie side by side.

        Raises:
            BatchConflictError: it is so.
        """
        opset = self.opsets.get(node.domain, 1)
        aligned = set()
        for index, value in enumerate(node.inputs):
            at = None if value is None else self.axes.get(value)
            sizes = None if value is None else self.sizes_of(value)
            if at is None or sizes is None:
                continue
            if at.axis in forbidden_axes(node, index, len(sizes), opset):
                raise BatchConflictError(f"node {node.name!r} ({node.op_type}) works along axis {at.axis}, the batch")
            aligned.add((at.axis - len(sizes), at.rows, at.inside))
        if node.op_type in BROADCASTING and len(aligned) > 1:
            raise BatchConflictError(f"node {node.name!r} ({node.op_type}) joins batches of two layouts")

    def _follow_numbers(self, node: ir.Node) -> bool:
        """Compute outputs that depend on shapes alone, for both batches (rule 2); whether this was such a node."""
        first = node.inputs[0] if node.inputs else None
        if node.op_type == "Shape" and first is not None and first in self.axes:
            sizes, at = self.sizes_of(first), self.axes[first]
            if sizes is None or None in sizes:
                return True
            more = [at.rows * (self.batch + 1) if axis == at.axis else size for axis, size in enumerate(sizes)]
            part = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes)))
            self.numbers[node.outputs[0]] = np.array(sizes[part], np.int64), np.array(more[part], np.int64)
            return True
        known = [(None, None) if value is None else self.both(value) for value in node.inputs]
        if None in known or not any(value in self.numbers for value in node.inputs if value is not None):
            return False
        try:
            pair = [evaluate(node, [entry[world] for entry in known if entry], self.opsets) for world in (0, 1)]
        except Exception:  # the evaluator raises any type of error; then the value is unknown
            return False
        if any(now.shape != more.shape for now, more in zip(*pair, strict=False)):
            return False  # rows, of which there are more with more images
        self.numbers.update((value, (now, more)) for value, now, more in zip(node.outputs, *pair, strict=False))
        return True

    def both(self, value: ir.Value) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """The numbers of a small constant, or of a value computed from shapes, at both batches; None for others."""
        tensor = ir.convenience.get_const_tensor(value)
        if value in self.numbers or tensor is None or tensor.size > _SMALL:
            return self.numbers.get(value)
        return np.asarray(tensor.numpy()), np.asarray(tensor.numpy())

    def _like(self, grown: Sequence[ir.Value], axis: int, rows: int) -> BatchAxis:
        """The batch axis `axis` of an output, ordered as in the input with the same number of rows per image."""
        inside = next((self.axes[value].inside for value in grown if self.axes[value].rows == rows), 1)
        return BatchAxis(axis, rows, inside)

    def _infer(self, node: ir.Node, batch: int) -> dict[int, Sizes]:
        """Output index -> shape at `batch`, where onnx can infer it."""
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        proto = ir.serde.serialize_node(node)
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            name = proto.input[index] = f"in{index}"
            sizes, tensor = self.sizes_of(value), ir.convenience.get_const_tensor(value)
            if value in self.numbers:
                tensor = ir.tensor(self.numbers[value][batch != self.batch])
            dtype = value.dtype if tensor is None else tensor.dtype
            if dtype is None or sizes is None:
                return {}
            at = self.axes.get(value)
            shape = [at.rows * batch if at is not None and axis == at.axis else size for axis, size in enumerate(sizes)]
            types[name] = onnx.helper.make_tensor_type_proto(dtype.value, shape)
            if tensor is not None and math.prod(shape) <= _SMALL:  # type: ignore[arg-type]
                data[name] = onnx.numpy_helper.from_array(np.asarray(tensor.numpy()), name)
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
            imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
            found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError):
            return {}
        for index, name in enumerate(proto.output):
            if name in found and found[name].tensor_type.elem_type:
                node.outputs[index].type = ir.TensorType(ir.DataType(found[name].tensor_type.elem_type))
        return {
            index: [dim.dim_value if dim.HasField("dim_value") else None for dim in found[name].tensor_type.shape.dim]
            for index, name in enumerate(proto.output)
            if name in found and found[name].tensor_type.HasField("shape")
        }
