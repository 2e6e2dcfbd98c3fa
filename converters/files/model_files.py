"""Which files a model on disk is made of: what is written must never be one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from .loading import load_onnx

__all__ = ["files_of"]


def files_of(path: Path) -> tuple[Path, ...]:
    """The model itself, and the files beside an ONNX file that hold its weights; a folder stands for all inside it.

    Raises:
        InputError: the file is no usable ONNX model.
    """
    if path.is_dir():
        return (path,)
    model = load_onnx(path, mapped=True)
    beside = {path.parent / tensor.location for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor)}
    return (path, *sorted(beside))


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Weights, and the constants in nodes, those of subgraphs too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()
