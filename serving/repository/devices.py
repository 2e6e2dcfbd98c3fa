"""The NVIDIA GPUs of this machine, by asking the CUDA driver, so that torch need not be loaded."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["gpu_names", "gpu_present"]

_LONGEST = 256
"""Bytes of a device's name."""


@cache
def gpu_names() -> tuple[str, ...]:
    """The names of the devices that the CUDA driver reports, in its order; none where no driver is installed.

    Source: CUDA driver API, `cuDeviceGetName`. CUDA_VISIBLE_DEVICES hides devices from the driver as from torch.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_name(driver, index) for index in range(count.value))


def gpu_present() -> bool:
    """Whether the CUDA driver is installed and reports at least one device."""
    return bool(gpu_names())


def _name(driver: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(_LONGEST)
    if driver.cuDeviceGet(ctypes.byref(device), index) != 0 or driver.cuDeviceGetName(name, _LONGEST, device) != 0:
        return f"GPU {index}"
    return name.value.decode(errors="replace")
