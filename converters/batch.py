"""Rewrite the batch of an ONNX graph: fixed to N, or dynamic. Proved by running it, or refused.

A baked-in batch hides in the input's shape and in the constants of Reshape and Expand. Going through the graph with
shape inference, a constant is taken for the batch only where the element counts say so: its first number, divided
by the batch, times the rest must be what one image contributes (so merged N * T rows count too). The rewritten
graph must then give, for several batch sizes, what the source gives image by image.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import InputError
from .constants import fold_constants
from .parity import measure_parity
from .probing import probe_inputs
from .runners import OnnxRunner

__all__ = ["PROVED_BATCHES", "Batch", "set_batch"]

PROVED_BATCHES = (1, 2, 3, 5, 16)
"""Sizes at which a dynamic batch is proved."""
SYMBOL = "batch"
Batch = int | Literal["dynamic"]
"""A number of images, or any."""
TOLERANCE = 1e-5
"""Kernels may sum in another order for another batch."""


def set_batch(model: onnx.ModelProto, batch: Batch, *, tolerance: float = TOLERANCE) -> onnx.ModelProto:
    """A copy of `model` that takes batches of `batch` images, or of any size.

    Raises:
        InputError: `batch` is no batch, or the rewritten graph does not give what `model` gives image by image.
    """
    if batch != "dynamic" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InputError(f"batch: expected a positive number or 'dynamic', got {batch!r}")
    current = _batch_of(model)
    if current == batch or (batch == "dynamic" and not isinstance(current, int)):
        result = onnx.ModelProto()
        result.CopyFrom(model)
        return result
    result = _rewrite(model, current, batch)
    _prove(model, result, batch, tolerance)
    return result


def _batch_of(model: onnx.ModelProto) -> int | str:
    """The first size of the first real input: a number, or a symbol."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and dims:
            return int(dims[0].dim_value) if dims[0].HasField("dim_value") else dims[0].dim_param
    raise InputError("batch: the model has no input with a batch axis")


def _rewrite(model: onnx.ModelProto, current: int | str, batch: Batch) -> onnx.ModelProto:
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    per_image = _elements_per_image(model, current) if isinstance(current, int) else {}
    _set_first_dims(rewritten, current, batch)
    del rewritten.graph.value_info[:]
    if isinstance(current, int):
        graph = ir.from_proto(rewritten)
        unread = set(_unread(graph))
        fold_constants(graph, "batch")  # shapes of Expand are often computed from constants
        _patch_constants(graph, current, batch, per_image)
        _patch_repeated_rows(graph, current, batch)
        for name in set(_unread(graph)) - unread:  # the constants that gave way; a runtime warns of each
            del graph.graph.initializers[name]
        rewritten = ir.to_proto(graph)
        del rewritten.graph.value_info[:]
    return _with_output_shapes(rewritten, model, batch)


def _set_first_dims(model: onnx.ModelProto, current: int | str, batch: Batch) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in weights or not dims:
            continue
        first = dims[0].dim_value if dims[0].HasField("dim_value") else dims[0].dim_param
        if first == current:
            _set_dim(dims[0], batch)


def _set_dim(dim: Any, batch: Batch) -> None:
    dim.Clear()
    if batch == "dynamic":
        dim.dim_param = SYMBOL
    else:
        dim.dim_value = batch


def _elements_per_image(model: onnx.ModelProto, current: int) -> dict[str, int]:
    """Elements of every value of known shape, divided by the batch, where that is a whole number."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    sizes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if all(dims) and math.prod(dims) % current == 0:
            sizes[value.name] = math.prod(dims) // current
    return sizes


def _unread(model: ir.Model) -> list[str]:
    """Weights that no node of the graph or of a subgraph reads."""
    weights = model.graph.initializers.items()
    return [name for name, value in weights if not value.uses() and not value.is_graph_output()]


def _patch_constants(model: ir.Model, current: int, batch: Batch, per_image: dict[str, int]) -> None:
    """Give Reshape and Expand a shape that follows the batch, wherever theirs holds the current one."""
    source = model.graph.inputs[0]
    for node in list(model.graph):
        if node.op_type not in ("Reshape", "Expand") or len(node.inputs) < 2:
            continue
        data, shape = node.inputs[0], node.inputs[1]
        constant = None if shape is None else ir.convenience.get_const_tensor(shape)
        if data is None or constant is None or not _depends_on(data, source, node):
            continue
        numbers = [int(number) for number in np.asarray(constant.numpy()).reshape(-1)]
        if node.op_type == "Expand":
            target = 1 if numbers[:1] == [current] and 0 not in numbers and -1 not in numbers else None
        else:
            target = _following(numbers, current, per_image.get(node.outputs[0].name or ""))
        if target is None:
            continue
        if batch != "dynamic":
            wanted = [batch * target, *numbers[1:]]
        elif node.op_type == "Reshape" and -1 not in numbers[1:]:
            wanted = [-1, *numbers[1:]]
        else:
            node.replace_input_with(1, _shape_at_run_time(model, node, source, target, numbers[1:]))
            continue
        node.replace_input_with(1, _integers(model, wanted, f"{node.outputs[0].name}_shape"))
        if node.attributes.get_int("allowzero", 0) and 0 not in wanted:
            node.attributes.pop("allowzero")


def _patch_repeated_rows(model: ir.Model, current: int, batch: Batch) -> None:
    """Weights with one equal row per image (an expanded class token): one row, expanded where Concat needs it."""
    source = model.graph.inputs[0]
    for node in list(model.graph):
        if node.op_type not in ("Concat", "Add", "Sub", "Mul", "Div"):
            continue
        if not any(value is not None and _depends_on(value, source, node) for value in node.inputs):
            continue
        for index, value in enumerate(node.inputs):
            tensor = None if value is None else value.const_value
            if tensor is None or len(tensor.shape) < 2 or tensor.shape[0] != current:
                continue
            array = np.asarray(tensor.numpy())
            if (array != array[:1]).any():
                continue
            row = _weight(model, array[:1], f"{node.name}_row_{index}")
            if node.op_type == "Concat":
                rest = [int(size) for size in array.shape[1:]]
                if batch == "dynamic":
                    shape = _shape_at_run_time(model, node, source, 1, rest)
                else:
                    shape = _integers(model, [batch, *rest], f"{node.name}_rows_{index}_shape")
                expand = ir.node("Expand", [row, shape], name=f"{node.name}_rows_{index}")
                expand.outputs[0].name = f"{expand.name}_out"
                model.graph.insert_before(node, expand)
                row = expand.outputs[0]
            node.replace_input_with(index, row)


def _depends_on(value: ir.Value, source: ir.Value, node: ir.Node) -> bool:
    """Reshaping a weight has nothing to do with the batch; expanding one (a class token) may."""
    if node.op_type == "Expand":
        return True
    seen, open_values = set(), [value]
    while open_values:
        current = open_values.pop()
        if current is source:
            return True
        producer = current.producer()
        if producer is not None and producer not in seen:
            seen.add(producer)
            open_values += [entry for entry in producer.inputs if entry is not None]
    return False


def _following(numbers: list[int], current: int, per_image: int | None) -> int | None:
    """How many rows an image contributes, where the first number is proved to be that times the batch."""
    if not numbers or per_image is None or numbers[0] <= 0 or numbers[0] % current:
        return None
    rows, rest = numbers[0] // current, numbers[1:]
    if any(number == 0 for number in rest):
        return None
    if -1 in rest:
        return rows if rest.count(-1) == 1 and per_image % (rows * -math.prod(rest)) == 0 else None
    return rows if rows * math.prod(rest) == per_image else None


def _shape_at_run_time(model: ir.Model, node: ir.Node, source: ir.Value, rows: int, rest: list[int]) -> ir.Value:
    """Nodes in front of `node` that compute [batch * rows, *rest]."""
    prefix = node.outputs[0].name
    shape = ir.node("Shape", [source], name=f"{prefix}_batch_shape")
    axis = _integers(model, [0], f"{prefix}_batch_axis")
    first = ir.node("Gather", [shape.outputs[0], axis], name=f"{prefix}_batch_size")
    nodes, size = [shape, first], first.outputs[0]
    if rows > 1:
        factor = _integers(model, [rows], f"{prefix}_rows")
        nodes.append(ir.node("Mul", [size, factor], name=f"{prefix}_batch_rows"))
        size = nodes[-1].outputs[0]
    tail = _integers(model, rest, f"{prefix}_tail")
    nodes.append(ir.node("Concat", [size, tail], {"axis": 0}, name=f"{prefix}_new_shape"))
    for entry in nodes:
        entry.outputs[0].name = f"{entry.name}_out"
    model.graph.insert_before(node, nodes)
    return nodes[-1].outputs[0]


def _integers(model: ir.Model, numbers: list[int], name: str) -> ir.Value:
    return _weight(model, np.array(numbers, dtype=np.int64), name)


def _weight(model: ir.Model, array: NDArray[Any], name: str) -> ir.Value:
    """A new initializer."""
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _with_output_shapes(model: onnx.ModelProto, source: onnx.ModelProto, batch: Batch) -> onnx.ModelProto:
    """Output shapes inferred anew, or the source's with another first size (which the proof then confirms)."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value, found, stated in zip(model.graph.output, inferred.graph.output, source.graph.output, strict=True):
        value.CopyFrom(found if found.type.tensor_type.HasField("shape") else stated)
        dims = value.type.tensor_type.shape.dim
        if dims and (batch == "dynamic" or dims[0].dim_value != batch):
            _set_dim(dims[0], batch)
    return model


def _prove(source: onnx.ModelProto, rewritten: onnx.ModelProto, batch: Batch, tolerance: float) -> None:
    sizes = PROVED_BATCHES if batch == "dynamic" else (batch,)
    try:
        reference, candidate = OnnxRunner(source), OnnxRunner(rewritten)
        images = probe_inputs(candidate.inputs, max(sizes))
        singles = _one_by_one(reference, images)
        for size in sizes:
            got = candidate.run(*(array[:size] for array in images))
            expected = [output[:size] for output in singles]
            parity = measure_parity(expected, got)
            if not parity.max_rel <= tolerance:
                raise InputError(f"max relative error {parity.max_rel:.3g} > {tolerance:g} at batch {size}")
    except InputError as error:
        raise InputError(
            f"batch {batch}: the rewritten graph is not the source's ({error}); a constant of the graph depends on "
            "the batch in a way that cannot be proved; export the model with a dynamic batch"
        ) from error


def _one_by_one(runner: OnnxRunner, images: tuple[NDArray[Any], ...]) -> list[NDArray[Any]]:
    """The source's outputs for each image alone; where its batch is fixed, for a batch full of that image."""
    rows = []
    for index in range(len(images[0])):
        single = [np.repeat(array[index : index + 1], runner.batch or 1, axis=0) for array in images]
        rows.append([output[:1] for output in runner.run(*single)])
    return [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]
