"""NumPy arrays in and out of Triton's Python stub by DLPack, without copies.

Lies beside every `model.py` of rtool inside the server, and imports nothing of rtool. The stub of Triton 24.10 predates
NumPy 2: its own `as_numpy()` and `Tensor(name, array)` silently give empty buffers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

__all__ = ["failed", "from_triton", "to_triton"]

_USED = b"used_dltensor"  # kept alive: a capsule stores the pointer, not a copy
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
_set_capsule_name.restype = ctypes.c_int


def from_triton(tensor: Any) -> np.ndarray[Any, Any]:
    """A view of a Triton tensor in main memory."""
    view: np.ndarray[Any, Any] = np.from_dlpack(tensor)
    return view


def to_triton(name: str, array: np.ndarray[Any, Any]) -> Any:
    """A Triton tensor that shares the memory of `array`, which is copied first when it is not contiguous.

    The stub renames the capsule that it consumed to a name that NumPy does not know, and NumPy then warns on stderr
    with every response; the name that the DLPack protocol prescribes avoids the warning.
    """
    if not array.size:  # NumPy's strides are not those that the stub expects; there is no buffer to lose
        return pb_utils.Tensor(name, array)
    lent = _LentOnce(np.ascontiguousarray(array))
    tensor = pb_utils.Tensor.from_dlpack(name, lent)
    if lent.capsule is not None:
        _set_capsule_name(lent.capsule, _USED)
    return tensor


def failed(error: object) -> Any:
    """The response to a request that failed; clients get the text of `error`, and its cause as a status.

    INVALID_ARG: the input is at fault (ONNX Runtime's InvalidArgument, a ValueError); UNKNOWN: the model is. INTERNAL
    stays Triton's own status for a process that died. An error may state another one as `triton_code`.
    """
    kinds = pb_utils.TritonError
    wrong_input = isinstance(error, ValueError) or type(error).__name__ == "InvalidArgument"
    code = getattr(error, "triton_code", kinds.INVALID_ARG if wrong_input else kinds.UNKNOWN)
    return pb_utils.InferenceResponse(output_tensors=[], error=kinds(str(error), code))


class _LentOnce:
    """Exports an array by DLPack and keeps the capsule, so that it can be marked as used afterwards."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        self.capsule: Any = None

    def __dlpack__(self, **_: Any) -> Any:
        self.capsule = self._array.__dlpack__()
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, device = self._array.__dlpack_device__()
        return int(kind), int(device)
