"""Rewrite the batch of an ONNX graph: fixed to N, or dynamic. The result is verified by running it, or refused.

A fixed batch is stated in the shapes of inputs and outputs, and may also be part of constants of the graph:

1. the first dimension of every input that has the old batch becomes the new one;
2. constants are folded, because shapes of Expand are often computed from constants; quantised weights
   are not, unless ONNX Runtime refuses them;
3. constants that depend on the batch are rewritten, see `batching/constants.py`; what nothing reads afterwards goes;
4. output shapes are inferred again;
5. for each of several batch sizes the rewritten graph must give what the source gives image by image.

Step 5 also runs for a graph that already states a dynamic batch: a constant of it may still hold a fixed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import InputError
from ..files.model_file import ModelFile
from ..files.open_dimensions import state_open_dimensions
from ..runtime.batches.batch_proof import TOLERANCE, BatchFinding, BatchImages, batch_error
from ..runtime.batches.file_batch import find_file_batch
from ..runtime.reference_runner import ReferenceRunner, WillingRunner
from .batching.axes import Sizes
from .batching.choices import BatchConflictError, searched
from .batching.constants import Batch, follow_batch
from .constants.constant_folding import fold_constants

__all__ = ["VERIFIED_BATCHES", "Batch", "changes_batch", "set_batch"]

VERIFIED_BATCHES = (1, 2, 3, 5, 16)
"""Batch sizes at which a dynamic batch is verified."""
LARGEST = 65_536
"""Images; no server is given more in one request, and each takes a run to verify."""
SYMBOL = "batch"
_DISTINCT = 5
"""Images; larger batches repeat them."""


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
    if isinstance(current, int) and current == batch:
        return result
    sizes = VERIFIED_BATCHES if batch == "dynamic" else (batch,)
    source = _Source(model, inputs, max(sizes))
    reason, conflicts = "", list[str]()
    keep = () if isinstance(source.runner.runner, ReferenceRunner) else ("DequantizeLinear",)
    for result in _rewritten(model, current, batch, conflicts, keep):
        try:
            source.check(result, sizes, tolerance)
        except InputError as error:
            right = source.right_batch(batch)
            if right is not None:  # it was traced at `right`, and may be opened from there
                return result if right == batch else set_batch(set_batch(model, right), batch, inputs=inputs)
            reason = reason or str(error)
        else:
            return result
    raise InputError(
        f"batch {batch}: the rewritten graph differs from the source ({reason or conflicts[0]}); a constant "
        "of the graph depends on the batch in a way that cannot be verified; re-export the model with a dynamic batch"
    )


def changes_batch(model: onnx.ModelProto, batch: Batch) -> bool:
    """Whether `set_batch` rewrites `model`; its result is an equal copy where the batch is `batch` already.

    Raises:
        InputError: the model has no input with a batch axis.
    """
    current = _batch_of(model)
    return current != batch if isinstance(current, int) else batch != "dynamic"


def _batch_of(model: onnx.ModelProto) -> int | str:
    """The first dimension of the first input that is not a weight: a number, or the name of a symbol."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and dims:
            return int(dims[0].dim_value) if dims[0].HasField("dim_value") else dims[0].dim_param
    raise InputError("batch: the model has no input with a batch axis")


def _rewritten(
    model: onnx.ModelProto, current: int | str, batch: Batch, conflicts: list[str], keep: Sequence[str]
) -> Iterator[onnx.ModelProto]:
    """Graphs that may be `model` at another batch, the likeliest first; `conflicts` gets why others are not."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not isinstance(current, int):
        if batch != "dynamic":
            _set_first_dims(copy, current, batch)
            del copy.graph.value_info[:]
            copy = _with_output_shapes(copy, model, batch)
        yield copy
        return
    folded = ir.from_proto(copy)  # folding renames tensors of the proto
    unread = set(_unread(folded))
    fold_constants(folded, "batch", keep=keep)  # shapes are often computed from constants
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(folded), data_prop=True)
    sizes = _sizes(inferred)
    _set_first_dims(inferred, current, batch)
    for choices in searched():
        graph = ir.from_proto(inferred)
        try:
            follow_batch(graph, current, batch, sizes, choices)
        except BatchConflictError as conflict:
            conflicts.append(str(conflict))
            continue
        for name in set(_unread(graph)) - unread:  # the replaced constants; ONNX Runtime warns about each unused one
            del graph.graph.initializers[name]
        rewritten = ir.to_proto(graph)
        del rewritten.graph.value_info[:]
        yield _with_output_shapes(rewritten, model, batch)


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


class _Source:
    """The source in ONNX Runtime, and its outputs for single images, which the rewritten graph must reproduce."""

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[NDArray[Any]] | None, count: int) -> None:
        self.model, self.runner, self.inputs = model, WillingRunner(model), inputs
        self.images = BatchImages.of(self.runner.inputs, min(count, _DISTINCT), inputs, open_size=None)
        self._copies, self._most = self.runner.batch or 1, count
        try:
            self.singles = self._all_singles()
        except InputError:
            right = None if self.runner.batch else self._finding().right_at
            if right in (None, 1):
                raise
            self._copies = right  # it declares an open batch, and runs at the one that it was traced at
            self.singles = self._all_singles()

    def _all_singles(self) -> list[tuple[NDArray[Any], ...]]:
        return [self._single(index) for index in range(self.images.distinct)]

    def _finding(self) -> BatchFinding:
        return find_file_batch(ModelFile.in_memory(self.model), self.runner, self.inputs)

    def _single(self, index: int) -> tuple[NDArray[Any], ...]:
        """The outputs for one image; at a batch that it is fixed to or right at, for copies of it.

        Raises:
            InputError: an output has no row per image.
        """
        copies = self._copies
        outputs = self.runner.run(*self.images.rows([index] * copies))
        if copies == self._most == 1:  # nothing is to be told apart
            return outputs
        for spec, output in zip(self.runner.outputs, outputs, strict=True):
            if not output.ndim:
                raise InputError(
                    f"batch: output {spec.name!r} is a single number for all images, so it has no image axis"
                )
            if len(output) != copies:
                raise InputError(
                    f"batch: output {spec.name!r} has no image axis: its first axis has size {len(output)} at a batch "
                    f"of {copies}, so the results of several images could not be told apart; re-export the model with "
                    "the batch as the first axis of every output"
                )
        return tuple(output[:1] for output in outputs)

    def check(self, rewritten: onnx.ModelProto, sizes: Sequence[int], tolerance: float) -> None:
        """Compare whole batches of `rewritten` with the single images.

        Raises:
            InputError: they differ.
        """
        candidate = self.runner.also(rewritten)
        for size in sizes:
            got = candidate.run(*self.images.rows(range(size)))
            error = batch_error([self.singles[index % self.images.distinct] for index in range(size)], got)
            if isinstance(error, str):
                raise InputError(f"at batch {size} it {error}")
            if not error <= tolerance:
                raise InputError(f"max relative error {error:.3g} > {tolerance:g} at batch {size}")

    def right_batch(self, batch: Batch) -> int | None:
        """The only batch that the source is right at, where it declares an open one and mixes images at others.

        Raises:
            InputError: it mixes images, and nothing tells at which batch it is right.
        """
        if self.runner.batch is not None:
            return None
        finding = self._finding()
        if finding.is_wrong and finding.right_at is None:
            raise InputError(f"batch {batch}: the model {finding.describe()}; export the network again")
        return finding.right_at if finding.is_wrong else None
