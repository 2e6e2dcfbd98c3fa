"""Rewrite the batch of an ONNX graph: fixed to N, or dynamic. Proved by running it, or refused.

A baked-in batch hides in the input's shape and in constants of the graph, which `batch_constants` lets follow. The
rewritten graph must then give, for several batch sizes, what the source gives image by image. So must a graph that
states an open batch already: a constant of it may hold one all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import InputError
from ..records.record import TensorSpec
from ..runtime.parity import measure_parity
from ..runtime.probing import probe_inputs
from ..runtime.runners import OnnxRunner
from .batch_axes import Sizes
from .batch_constants import Batch, follow_batch
from .constant_folding import fold_constants

__all__ = ["PROVED_BATCHES", "Batch", "set_batch"]

PROVED_BATCHES = (1, 2, 3, 5, 16)
"""Sizes at which a dynamic batch is proved."""
SYMBOL = "batch"
TOLERANCE = 1e-5
"""Kernels may sum in another order for another batch."""


def set_batch(
    model: onnx.ModelProto,
    batch: Batch,
    *,
    inputs: Sequence[NDArray[Any]] | None = None,
    tolerance: float = TOLERANCE,
) -> onnx.ModelProto:
    """A copy of `model` that takes batches of `batch` images, or of any size.

    Args:
        model: the source; not changed.
        batch: the new batch.
        inputs: arrays the model takes, whose sizes it is proved with where the model leaves sizes open (height, width).
        tolerance: largest relative error.

    Raises:
        InputError: `batch` is no batch, sizes are open and there are no `inputs`, or the rewritten graph does not give
            what `model` gives image by image.

    Examples:
        >>> rewritten = rtool.converters.set_batch(onnx.load("fixed.onnx"), "dynamic")
        >>> onnx.save(rewritten, "dynamic.onnx")
        >>> rtool.inspect("fixed.onnx").batch, rtool.inspect("dynamic.onnx").batch
        (2, 'dynamic')
    """
    if batch != "dynamic" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InputError(f"batch: expected a positive number or 'dynamic', got {batch!r}")
    current = _batch_of(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if current == batch:
        return result
    is_open = not isinstance(current, int)
    if not (is_open and batch == "dynamic"):
        result = _rewrite(model, current, batch)
    _prove(model, result, batch, inputs, tolerance)
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
    if not isinstance(current, int):
        rewritten = onnx.ModelProto()
        rewritten.CopyFrom(model)
        _set_first_dims(rewritten, current, batch)
    else:
        rewritten = onnx.shape_inference.infer_shapes(model, data_prop=True)
        sizes = _sizes(rewritten)
        _set_first_dims(rewritten, current, batch)
        graph = ir.from_proto(rewritten)
        unread = set(_unread(graph))
        fold_constants(graph, "batch")  # shapes of Expand are often computed from constants
        follow_batch(graph, current, batch, sizes)
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


def _sizes(model: onnx.ModelProto) -> dict[str, Sizes]:
    """The shapes a model states, by name."""
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _unread(model: ir.Model) -> list[str]:
    """Weights that no node of the graph or of a subgraph reads."""
    weights = model.graph.initializers.items()
    return [name for name, value in weights if not value.uses() and not value.is_graph_output()]


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


def _prove(
    source: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    batch: Batch,
    inputs: Sequence[NDArray[Any]] | None,
    tolerance: float,
) -> None:
    """Run both; the source image by image."""
    sizes = PROVED_BATCHES if batch == "dynamic" else (batch,)
    reference = OnnxRunner(source)
    images = _images(reference, max(sizes), inputs)
    batched = _batched(reference)
    singles = [_single(reference, images, batched, index) for index in range(max(sizes))]
    rows = [np.concatenate(outputs) for outputs in zip(*singles, strict=True)]
    try:
        candidate = OnnxRunner(rewritten)
        for size in sizes:
            got = candidate.run(*(array[:size] if cut else array for array, cut in zip(images, batched, strict=True)))
            expected = [output[:size] for output in rows]
            parity = measure_parity(expected, got)
            if not parity.max_rel <= tolerance:
                raise InputError(f"max relative error {parity.max_rel:.3g} > {tolerance:g} at batch {size}")
    except InputError as error:
        raise InputError(
            f"batch {batch}: the rewritten graph is not the source's ({error}); a constant of the graph depends on "
            "the batch in a way that cannot be proved; export the model with a dynamic batch"
        ) from error


def _images(runner: OnnxRunner, count: int, inputs: Sequence[NDArray[Any]] | None) -> tuple[NDArray[Any], ...]:
    """Random inputs of `count` images; sizes that `runner` leaves open are those of `inputs`."""
    specs: list[TensorSpec] = []
    shapes = [spec.shape for spec in runner.inputs] if inputs is None else [array.shape for array in inputs]
    for spec, given, cut in zip(runner.inputs, shapes, _batched(runner), strict=True):
        sizes = [size if isinstance(size, int) else known for size, known in zip(spec.shape, given, strict=True)]
        specs.append(replace(spec, shape=("batch", *sizes[1:]) if cut else tuple(sizes)))
    return probe_inputs(specs, count)


def _batched(runner: OnnxRunner) -> list[bool]:
    """Which inputs have a row per image: those without a fixed size of their own."""
    shapes = [spec.shape for spec in runner.inputs]
    first = next(shape[0] for shape in shapes if shape)
    return [bool(shape) and (not isinstance(shape[0], int) or shape[0] == first) for shape in shapes]


def _single(
    runner: OnnxRunner, images: tuple[NDArray[Any], ...], batched: list[bool], index: int
) -> list[NDArray[Any]]:
    """The source's outputs for one image alone; where its batch is fixed, for a batch full of that image."""
    outputs = runner.run(
        *(
            np.repeat(array[index : index + 1], runner.batch or 1, axis=0) if cut else array
            for array, cut in zip(images, batched, strict=True)
        )
    )
    if not all(output.ndim for output in outputs):
        raise InputError("batch: an output is a single number for all images, so images have none of their own")
    return [output[:1] for output in outputs]
