"""Rewrite the batch of an ONNX graph: fixed to N, or dynamic. The result is verified by running it, or refused.

A fixed batch is stated in the shapes of inputs and outputs, and may also be part of constants of the graph:

1. the first dimension of every input that has the old batch becomes the new one;
2. constants are folded, because shapes of Expand are often computed from constants;
3. constants that depend on the batch are rewritten, see `batch_constants`; those that nothing reads afterwards go;
4. output shapes are inferred again;
5. for each of several batch sizes the rewritten graph must give what the source gives image by image.

Step 5 also runs for a graph that already states a dynamic batch: a constant of it may still hold a fixed one.
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
from ..files.open_dimensions import state_open_dimensions
from ..records.record import TensorSpec
from ..runtime.parity import measure_parity
from ..runtime.probes.probing import probe_inputs
from ..runtime.runners import OnnxRunner
from .batch_axes import Sizes
from .batch_constants import Batch, follow_batch
from .constants.constant_folding import fold_constants

__all__ = ["VERIFIED_BATCHES", "Batch", "changes_batch", "set_batch"]

VERIFIED_BATCHES = (1, 2, 3, 5, 16)
"""Batch sizes at which a dynamic batch is verified."""
LARGEST = 65_536
"""Images; no server is given more in one request, and each takes a run to verify."""
SYMBOL = "batch"
TOLERANCE = 1e-5
"""Largest relative error; above 0 because kernels may sum in another order for another batch."""


def set_batch(
    model: onnx.ModelProto,
    batch: Batch,
    *,
    inputs: Sequence[NDArray[Any]] | None = None,
    tolerance: float = TOLERANCE,
) -> onnx.ModelProto:
    """A copy of `model` whose batch is fixed to `batch` images, or dynamic.

    Args:
        model: the source; not changed.
        batch: a positive number, or "dynamic".
        inputs: example inputs, one array per graph input; needed where sizes other than the batch (height, width) are
            dynamic. Verification uses random values of these sizes.
        tolerance: largest relative error of the verification, see `Parity.max_rel`.

    Raises:
        InputError: `batch` is neither a positive number nor "dynamic", sizes are dynamic and `inputs` is missing, or
            the rewritten graph does not give what `model` gives image by image.

    Examples:
        >>> rewritten = rtool.converters.set_batch(onnx.load("fixed.onnx"), "dynamic")
        >>> onnx.save(rewritten, "dynamic.onnx")
        >>> rtool.inspect("fixed.onnx").batch, rtool.inspect("dynamic.onnx").batch
        (2, 'dynamic')
    """
    if batch != "dynamic" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InputError(f"batch: expected a positive number or 'dynamic', got {batch!r}")
    if batch != "dynamic" and batch > LARGEST:
        raise InputError(f"batch: a batch of {batch} is verified image by image, at most {LARGEST}; use 'dynamic'")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if state_open_dimensions(result):
        model = onnx.ModelProto()
        model.CopyFrom(result)
    current = _batch_of(model)
    if current == batch:
        return result
    if changes_batch(model, batch):
        result = _rewrite(model, current, batch)
    _verify(model, result, batch, inputs, tolerance)
    return result


def changes_batch(model: onnx.ModelProto, batch: Batch) -> bool:
    """Whether `set_batch` rewrites `model`; its result is an equal copy where the batch is `batch` already.

    Raises:
        InputError: the model has no input with a batch axis.
    """
    current = _batch_of(model)
    return current != batch and (isinstance(current, int) or batch != "dynamic")


def _batch_of(model: onnx.ModelProto) -> int | str:
    """The first dimension of the first input that is not a weight: a number, or the name of a symbol."""
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
        for name in set(_unread(graph)) - unread:  # the replaced constants; ONNX Runtime warns about each unused one
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
    """Value name -> shape, for every value whose shape the model states."""
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _unread(model: ir.Model) -> list[str]:
    """Names of initializers that no node of the graph or of a subgraph reads."""
    weights = model.graph.initializers.items()
    return [name for name, value in weights if not value.uses() and not value.is_graph_output()]


def _with_output_shapes(model: onnx.ModelProto, source: onnx.ModelProto, batch: Batch) -> onnx.ModelProto:
    """Infer the output shapes again, else copy the source's with the new first size (which `_verify` then checks)."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value, found, stated in zip(model.graph.output, inferred.graph.output, source.graph.output, strict=True):
        value.CopyFrom(found if found.type.tensor_type.HasField("shape") else stated)
        dims = value.type.tensor_type.shape.dim
        if dims and (batch == "dynamic" or dims[0].dim_value != batch):
            _set_dim(dims[0], batch)
    return model


def _verify(
    source: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    batch: Batch,
    inputs: Sequence[NDArray[Any]] | None,
    tolerance: float,
) -> None:
    """Compare the outputs of `rewritten` on whole batches with those of `source` image by image."""
    sizes = VERIFIED_BATCHES if batch == "dynamic" else (batch,)
    reference = OnnxRunner(source, exact=True)
    images = _images(reference, max(sizes), inputs)
    batched = _batched(reference)
    singles = [_single(reference, images, batched, index) for index in range(max(sizes))]
    rows = [np.concatenate(outputs) for outputs in zip(*singles, strict=True)]
    try:
        candidate = OnnxRunner(rewritten, exact=True)
        for size in sizes:
            got = candidate.run(*(array[:size] if cut else array for array, cut in zip(images, batched, strict=True)))
            expected = [output[:size] for output in rows]
            parity = measure_parity(expected, got)
            if not parity.max_rel <= tolerance:
                raise InputError(f"max relative error {parity.max_rel:.3g} > {tolerance:g} at batch {size}")
    except InputError as error:
        raise InputError(
            f"batch {batch}: the rewritten graph differs from the source ({error}); a constant of the graph depends on "
            "the batch in a way that cannot be verified; re-export the model with a dynamic batch"
        ) from error


def _images(runner: OnnxRunner, count: int, inputs: Sequence[NDArray[Any]] | None) -> tuple[NDArray[Any], ...]:
    """Random inputs of `count` images; dynamic sizes other than the batch are those of `inputs`."""
    specs: list[TensorSpec] = []
    shapes = [spec.shape for spec in runner.inputs] if inputs is None else [array.shape for array in inputs]
    for spec, given, cut in zip(runner.inputs, shapes, _batched(runner), strict=True):
        sizes = [size if isinstance(size, int) else known for size, known in zip(spec.shape, given, strict=True)]
        specs.append(replace(spec, shape=("batch", *sizes[1:]) if cut else tuple(sizes)))
    return probe_inputs(specs, count)


def _batched(runner: OnnxRunner) -> list[bool]:
    """Per input, whether axis 0 is the batch: it is dynamic, or has the size of the first input's axis 0."""
    shapes = [spec.shape for spec in runner.inputs]
    first = next(shape[0] for shape in shapes if shape)
    return [bool(shape) and (not isinstance(shape[0], int) or shape[0] == first) for shape in shapes]


def _single(
    runner: OnnxRunner, images: tuple[NDArray[Any], ...], batched: list[bool], index: int
) -> list[NDArray[Any]]:
    """The source's outputs for one image; where its batch is fixed, for a batch of copies of that image."""
    outputs = runner.run(
        *(
            np.repeat(array[index : index + 1], runner.batch or 1, axis=0) if cut else array
            for array, cut in zip(images, batched, strict=True)
        )
    )
    if not all(output.ndim for output in outputs):
        raise InputError("batch: an output is a single number for all images, so it cannot be compared image by image")
    return [output[:1] for output in outputs]
