"""What ONNX Runtime may be handed: never a model whose external data it would look up by itself.

Its own checks leave out the values of sparse tensors and Constants in functions, and a model given as bytes is looked
up in the current folder. So it is handed the bytes that were read, and the weights in other files are checked and
read here: small ones go in with the model, large ones beside it in memory, since one message holds 2 GiB at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from ..files.model_file import ModelFile

__all__ = ["SessionModel", "last_optimisations_crash", "session_model"]


@dataclass(frozen=True)
class SessionModel:
    """A model as `InferenceSession` takes it."""

    content: bytes
    """The model's bytes."""
    weights: tuple[Any, ...] = ()
    """What the session reads but does not own (`OrtValue`s and their arrays): it must live as long as the session."""


def session_model(model: str | Path | bytes | onnx.ModelProto | ModelFile, options: Any) -> SessionModel:
    """What `InferenceSession` is given; large external weights are given to `options`.

    A float16 model with a Transpose [1, 0, 2] is not given the last optimisations, which ONNX Runtime makes for CPUs:
    version 1.31.1 ends the process on one, where that Transpose lies before a MatMul with a constant, as
    `nn.MultiheadAttention` is exported. The configuration of a served model states the same, see
    `serving/repository/config_plan`.

    Args:
        model: a file, its bytes, or a proto, which is not changed.
        options: the `SessionOptions` of the session.

    Raises:
        InputError: `model` is not an ONNX model, or its external data is missing or not to be read.
    """
    import onnxruntime as ort

    from ..files.model_file import ModelFile

    file = ModelFile.of(model)
    if last_optimisations_crash(file):
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if not file.has_external_data:
        return SessionModel(file.content())
    from ..files.atomic_file import serialised

    proto = file.proto(leave_large_external=True)
    weights = file.external_weights(proto)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    if values:
        options.add_external_initializers(list(weights), values)
    return SessionModel(serialised(proto, file.label), (*weights.values(), *values))


def last_optimisations_crash(file: ModelFile) -> bool:
    """Whether the graph computes in float16 and has a Transpose [1, 0, 2]; onnx.TensorProto.FLOAT16 is 10."""
    graph = file.outline.graph
    values = (*graph.input, *graph.output)
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    return any(a.name == "perm" and list(a.ints) == [1, 0, 2] for a in attributes) and (
        any(tensor.data_type == 10 for tensor in graph.initializer)
        or any(value.type.tensor_type.elem_type == 10 for value in values)
        or any(a.name == "to" and a.i == 10 for a in attributes)
    )
