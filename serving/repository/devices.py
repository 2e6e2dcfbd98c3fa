"""Whether this machine has an NVIDIA GPU, by asking the CUDA driver, so that torch need not be loaded."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["gpu_present"]


@cache
def gpu_present() -> bool:
    """Whether the CUDA driver is installed and reports at least one device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
