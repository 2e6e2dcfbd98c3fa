"""Weights that are still in a file, as tensors of onnx-ir: their bytes are read once, straight to their destination."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import InputError
from ..records.file_digest import OpenFile
from .data_files import DataFile
from .model_bytes import Content, Place

__all__ = ["ExternalWeight", "FileTensor"]


class FileTensor(ir.LazyTensor):
    """A weight that is still in the file; `read_into` copies its bytes once, directly to their destination."""

    def __init__(self, content: Content, place: Place, like: ir.TensorProtocol) -> None:
        shape = ir.Shape(tuple(like.shape.numpy()))
        super().__init__(self._read, dtype=like.dtype, shape=shape, name=like.name)
        self._content = content
        self._place = place

    def read_into(self, array: NDArray[Any]) -> None:
        """Fill a contiguous array of the tensor's own element type and shape."""
        target = array.reshape(-1).view(np.uint8).data
        try:
            self._content.read_into(target, self._place.offset)
        except InputError as error:
            raise InputError(f"weight '{self.name}': {error}") from error

    def _read(self) -> ir.TensorProtocol:
        array = np.empty(self.shape.numpy(), self.dtype.numpy())
        self.read_into(array)
        return ir.Tensor(array, dtype=self.dtype)


class ExternalWeight(FileTensor):
    """A weight that is still in its data file, which must stay as it was when it was checked."""

    def __init__(self, data: DataFile, file: OpenFile, place: Place, like: ir.TensorProtocol) -> None:
        super().__init__(file, place, like)
        self._data, self._file = data, file

    def read_into(self, array: NDArray[Any]) -> None:
        """Fill a contiguous array of the tensor's own element type and shape.

        Raises:
            InputError: the data file was changed or replaced since it was checked.
        """
        self._data.check(self._file, f"weight '{self.name}'")
        super().read_into(array)
