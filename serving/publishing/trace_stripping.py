"""The file that a version publishes: the model without the traces that exporters leave in its nodes.

Stack traces name files and folders on the exporter's machine, and a repository has many readers. The computation is the
same and the model's own metadata stays. Open dimensions that the file states as -1 or 0 lose the number. A file with
nothing to change is published byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..repository.graph_signature import GraphSignature
from ..repository.signatures.reading import read_signature

__all__ = ["without_traces"]


def without_traces(signature: GraphSignature, folder: Path) -> GraphSignature:
    """The signature of a copy in `folder` without traces, or `signature` itself when there is nothing to remove.

    Raises:
        InputError: the copy cannot be written.
    """
    from ...converters.files.atomic_file import serialised
    from ...converters.files.model_file import ModelFile
    from ...converters.passes.metadata_stripping import strip_metadata

    assert isinstance(signature.file, ModelFile)
    model = signature.file.proto()
    stripped = strip_metadata(model)
    if stripped == model and not signature.file.is_restated:
        return signature
    path = folder / signature.path.name
    try:
        path.write_bytes(serialised(stripped, str(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error
    return read_signature(path)
