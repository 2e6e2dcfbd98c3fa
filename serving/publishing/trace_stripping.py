"""The file a version publishes: the model without what exporters left about their machine in its nodes.

Stack traces name files and folders of whoever exported the model, and a repository is read by many. The arithmetic
is the same; the model's own metadata stays. A file with nothing to remove is published byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..repository.graph_signature import GraphSignature, read_signature

__all__ = ["without_traces"]


def without_traces(signature: GraphSignature, folder: Path) -> GraphSignature:
    """The signature of a stripped copy in `folder`, or `signature` itself when there is nothing to strip.

    Raises:
        InputError: the copy cannot be written.
    """
    import onnx

    from ...converters.files.atomic_file import serialised
    from ...converters.files.model_bytes import read_model_bytes
    from ...converters.passes.metadata_stripping import strip_metadata

    model = onnx.ModelProto.FromString(read_model_bytes(signature.path))
    stripped = strip_metadata(model)
    if stripped == model:
        return signature
    path = folder / signature.path.name
    try:
        path.write_bytes(serialised(stripped, str(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error
    return read_signature(path)
