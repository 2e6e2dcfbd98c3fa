"""States the shapes that a graph's outputs have, where the file declares others.

A batch edited by hand often leaves `1 x 512` at the output of a network that takes any batch, and some exporters write
a size that their network does not have. ONNX Runtime runs such files with a warning; a server that believes the
declaration refuses every answer, and so does onnx's checker. What the graph computed is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from ..graphs.graph_view import tensor_specs_of
from ..records.record import Dim
from ..runtime.batches.batch_proof import batched

__all__ = ["state_computed_outputs"]


def state_computed_outputs(
    model: onnx.ModelProto,
    inputs: Sequence[NDArray[Any]],
    outputs: Sequence[NDArray[Any]],
    *,
    undeclared: bool = False,
) -> list[str]:
    """Change declared sizes of outputs that the graph does not compute, in place.

    Sizes are open where they follow the batch or another open size, else the computed numbers. The shapes of inner
    values, which stem from the same hand, are left out then: they are inferred by whoever reads the file.

    Args:
        model: the graph.
        inputs: one array per input that it was run on, with any number of images where the batch is fixed too.
        outputs: one array per output, what it computed.
        undeclared: also state the shape of an output that declares none.

    Returns:
        A line per changed output.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    specs = tensor_specs_of(given)
    rows = next((len(array) for array, cut in zip(inputs, batched(specs), strict=True) if cut), None)
    batch: Dim = next((spec.shape[0] for spec, cut in zip(specs, batched(specs), strict=True) if cut), None)
    is_open = any(not isinstance(size, int) for spec in specs for size in spec.shape[1:])
    changed = []
    for value, array in zip(model.graph.output, outputs, strict=True):
        shape = value.type.tensor_type.shape
        declared = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in shape.dim]
        is_declared = value.type.tensor_type.HasField("shape")
        if not is_declared and not undeclared:
            continue
        computed = [_first(array, rows, batch), *array.shape[1:]] if array.ndim else []
        if (
            is_declared
            and len(declared) == len(computed)
            and not any(isinstance(said, int) and said != found for said, found in zip(declared, computed, strict=True))
        ):
            continue
        old = list(shape.dim) if len(declared) == len(computed) else [onnx.TensorShapeProto.Dimension()] * len(computed)
        dims = [
            _stated(*pair, is_open=is_open and axis > 0) for axis, pair in enumerate(zip(old, computed, strict=True))
        ]
        del shape.dim[:]
        shape.dim.extend(dims)
        shape.SetInParent()
        said = f"was declared {_text(declared)} and" if is_declared else "declares no shape and"
        changed.append(f"{value.name} {said} is {_text([_said(dim) for dim in dims])}")
    if changed:
        del model.graph.value_info[:]
    return changed


def _first(array: NDArray[Any], rows: int | None, batch: Dim) -> Dim:
    """Axis 0 of an output: as many as images, a multiple of them, or a size of its own."""
    if not rows or len(array) % rows or not len(array):
        return len(array)
    per_image = len(array) // rows
    if isinstance(batch, int):
        return batch * per_image
    return batch if per_image == 1 else None


def _stated(old: onnx.TensorShapeProto.Dimension, computed: Dim, *, is_open: bool) -> onnx.TensorShapeProto.Dimension:
    """A declared size that is open or true stays."""
    dim = onnx.TensorShapeProto.Dimension()
    if old.HasField("dim_param") or (old.HasField("dim_value") and old.dim_value == computed):
        dim.CopyFrom(old)
    elif isinstance(computed, str):
        dim.dim_param = computed
    elif isinstance(computed, int) and not is_open:
        dim.dim_value = computed
    return dim


def _said(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"


def _text(sizes: Sequence[int | str]) -> str:
    return " x ".join(map(str, sizes)) or "scalar"
