"""Which files a model on disk is made of: what is written must never be one of them."""

from __future__ import annotations

from pathlib import Path

from .loading import data_files_of, load_onnx

__all__ = ["files_of"]


def files_of(path: Path) -> tuple[Path, ...]:
    """The model itself, and the files beside an ONNX file that hold its weights; a folder stands for all inside it.

    Raises:
        InputError: the file is no usable ONNX model.
    """
    return (path,) if path.is_dir() else (path, *data_files_of(load_onnx(path, mapped=True)))
