"""What this machine supports: the `doctor` command, and the description in every benchmark result.

Nothing is downloaded, no server is started and no library is loaded: versions are those that the installed packages
state, GPUs those of the CUDA driver, and execution providers those whose libraries lie in ONNX Runtime's package.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..serving.repository.devices import gpu_names

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
        "gpus": list(gpu_names()),
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
    version = _version_of("torch")
    stated = re.search(r"^cuda\b[^=]*= *'([^']+)'", (_folder_of("torch") / "version.py").read_text(), re.MULTILINE)
    gpus = ", ".join(gpu_names())
    if gpus and stated is None:
        advice = "this build of torch cannot use the GPU; install one for CUDA"
        return Check("torch", True, f"{version}, built for the CPU only, beside {gpus}", advice)
    return Check("torch", True, f"{version}, {gpus or 'no CUDA device: CPU only'}")


def _onnxruntime() -> Check:
    installed = [name for name in ("onnxruntime-gpu", "onnxruntime") if name in _versions()]
    version = _version_of(installed[0] if installed else "onnxruntime")
    advice = "onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, install one"
    both = len(installed) == 2
    return Check("onnxruntime", not both, f"{version}, {', '.join(_providers())}", advice if both else "")


def _providers() -> tuple[str, ...]:
    """The execution providers in ONNX Runtime's package, in its order of preference."""
    folder = _folder_of("onnxruntime") / "capi"
    shared = (("tensorrt", "Tensorrt"), ("cuda", "CUDA"))
    found = [f"{name}ExecutionProvider" for key, name in shared if any(folder.glob(f"*onnxruntime_providers_{key}.*"))]
    return (*found, "CPUExecutionProvider")


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"{distribution} is not installed") from error


def _folder_of(module: str) -> Path:
    """Where a package lies, without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"{module} is not installed")
    return Path(spec.origin).parent


def _triton() -> Check:
    from ..serving.server.embedded import triton_status

    found, advice = triton_status()
    return Check("triton", True, found, advice)


def _container() -> Check:
    from ..serving.server.container import IMAGE
    from ..serving.service.choice import why_no_container

    missing = why_no_container()
    if not missing:
        return Check("container", True, f"docker runs and has {IMAGE}")
    return Check("container", True, missing, "`rtool serve` then runs another server, and `--container` cannot")


def _libraries() -> Check:
    return Check("libraries", True, ", ".join(f"{name} {version}" for name, version in _versions().items()))
