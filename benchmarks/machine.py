"""What this machine supports: the `doctor` command, and the description in every benchmark result.

Nothing is downloaded and no server is started; torch is asked for the names of its CUDA devices.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Check", "DoctorReport", "describe_machine", "doctor"]

_LIBRARIES = (
    "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "onnxruntime", "onnxslim", "onnxsim",
    "safetensors", "numpy", "pillow", "tritonclient",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One line of the report. `ok` is False only when something rtool needs is missing or broken."""

    name: str
    ok: bool
    found: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All checks, in the order shown."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing that rtool needs is missing."""
        return all(check.ok for check in self.checks)


def doctor() -> DoctorReport:
    """Check processor, devices, execution providers, Triton and library versions; failed checks are in the report."""
    looks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("processor", _processor),
        ("torch", _torch),
        ("onnxruntime", _onnxruntime),
        ("triton", _triton),
        ("container", _container),
        ("libraries", _libraries),
    )
    checks = []
    for name, look in looks:
        try:
            checks.append(look())
        except (ImportError, OSError, RuntimeError) as error:
            checks.append(Check(name, False, f"{type(error).__name__}: {error}", "reinstall with `make demo`"))
    return DoctorReport(tuple(checks))


def describe_machine() -> dict[str, object]:
    """Hardware and versions as JSON data, to be stored with measured figures; memory in GiB."""
    return {
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "libraries": _versions(),
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> Check:
    return Check("processor", True, f"{_processor_name()}, {os.cpu_count()} cores, {_memory_bytes() / 2**30:.0f} GiB")


def _torch() -> Check:
    import torch

    found = f"{torch.__version__}, {', '.join(_gpus()) or 'no CUDA device: CPU only'}"
    return Check("torch", True, found)


def _onnxruntime() -> Check:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    both = {"onnxruntime", "onnxruntime-gpu"} <= _versions().keys()
    advice = "onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, install one" if both else ""
    return Check("onnxruntime", not both, f"{onnxruntime.__version__}, {', '.join(providers)}", advice)


def _triton() -> Check:
    from ..serving.server.embedded import triton_status

    found, advice = triton_status()
    return Check("triton", True, found, advice)


def _container() -> Check:
    engine = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    if engine is None:
        return Check("container", True, "no docker or podman on PATH", "needed only for `rtool serve --container`")
    alive = subprocess.run([engine, "info"], capture_output=True, timeout=10, check=False).returncode == 0
    return Check("container", True, f"{engine}, engine {'running' if alive else 'not running'}")


def _libraries() -> Check:
    return Check("libraries", True, ", ".join(f"{name} {version}" for name, version in _versions().items()))
