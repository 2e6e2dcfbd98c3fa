"""An ONNX file as one proto with all weights inside, which may be edited and handed to a runtime."""

from __future__ import annotations

from pathlib import Path

import onnx

from .external_data import find_external_data
from .loading import parse_model
from .validation import check_proto

__all__ = ["whole_model"]


def whole_model(path: Path) -> onnx.ModelProto:
    """The model at `path`; no tensor of it is external data any more.

    Raises:
        InputError: it is no ONNX model, malformed, or its external data is missing or not to be read.
    """
    proto = parse_model(path)
    check_proto(proto, str(path))
    find_external_data(proto, str(path), path).fill(proto)
    return proto
