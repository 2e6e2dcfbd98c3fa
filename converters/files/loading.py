"""Load an ONNX model from a path, a proto or an IR model as a new onnx-ir model; the argument is never changed.

The IR made from a proto shares its weight bytes and owns everything else. A file is read once and never written.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from .external_data import bring_in_tensors
from .model_file import ModelFile, attach_source, source_of

__all__ = ["load_onnx"]


def load_onnx(model: str | Path | onnx.ModelProto | ir.Model | ModelFile) -> ir.Model:
    """The model as a fresh onnx-ir model that may be edited freely.

    External data is read lazily, and only from inside the folder of the file.

    Raises:
        InputError: the file is missing, a folder, empty, a web page, a git-lfs pointer, truncated, or not ONNX; the
            graph is malformed; or weights are missing, or said to lie where a model may not look.
    """
    if not isinstance(model, ir.Model):
        return ModelFile.of(model).ir_model()
    loaded = model.clone()
    bring_in_tensors(loaded)
    attach_source(loaded, source_of(model))
    return loaded
