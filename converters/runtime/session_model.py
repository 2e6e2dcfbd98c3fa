"""What ONNX Runtime may be handed: never a model whose external data it would look up by itself.

Its own checks leave out the values of sparse tensors and Constants in functions, and a model given as bytes is looked
up in the current folder. So a file without external data is opened by its path; the weights of any other are checked
and read here: small ones go in with the model, large ones beside it in memory, since one message holds 2 GiB at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError

if TYPE_CHECKING:
    import onnx

__all__ = ["SessionModel", "session_model"]


@dataclass(frozen=True)
class SessionModel:
    """A model as `InferenceSession` takes it."""

    content: str | bytes
    """A path, or the model's bytes."""
    weights: tuple[Any, ...] = ()
    """`OrtValue`s that the session reads but does not own: they must live as long as it does."""


def session_model(model: str | Path | bytes | onnx.ModelProto, options: Any) -> SessionModel:
    """What `InferenceSession` is given; large external weights are given to `options`.

    Args:
        model: a file, its bytes, or a proto, which is not changed.
        options: the `SessionOptions` of the session.

    Raises:
        InputError: `model` is no ONNX model, or its external data is missing or not to be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from ..files.external_data import refuse_external_data

    if isinstance(model, str | Path):
        return _of_file(Path(model), options)
    if isinstance(model, bytes):
        try:
            refuse_external_data(onnx.ModelProto.FromString(model), "<memory>")
        except DecodeError as error:
            raise InputError(f"<memory>: expected an ONNX model, got {len(model)} bytes that are not one") from error
        return SessionModel(model)
    refuse_external_data(model, "<memory>")
    return SessionModel(model.SerializeToString())


def _of_file(path: Path, options: Any) -> SessionModel:
    import onnxruntime as ort

    from ..files.atomic_file import serialised
    from ..files.external_data import find_external_data, has_external_data
    from ..files.loading import parse_model
    from ..files.mapped_weights import open_mapped

    mapped = open_mapped(path)
    proto = parse_model(path) if mapped is None else mapped.proto
    if not has_external_data(proto):
        return SessionModel(str(path))
    if mapped is not None:
        proto = parse_model(path)
    external = find_external_data(proto, str(path), path)
    external.fill(proto, leave_large=True)
    weights = external.weights(proto)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    if values:
        options.add_external_initializers(list(weights), values)
    return SessionModel(serialised(proto, str(path)), tuple(values))
