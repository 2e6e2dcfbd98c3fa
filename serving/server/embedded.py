"""Which Triton this machine runs: the `tritonserver` on PATH, else the embedded one, downloaded on first use.

The embedded server has only a Python back end. Its back-end folder is composed of Triton's own `python/`, with the stub
of this Python version, and of `onnxruntime/model.py` and `pytorch/model.py`, which are part of rtool. The files are
copied, because Triton refuses a library that lies outside the back-end folder, and follows symbolic links to find out.

The embedded build is Triton 2.51 (24.10), which lacks the security fixes that `releases/advisories.py` lists: it binds
to 127.0.0.1 only, its control is closed by a key, and it is meant for development and tests. Use an image of 26.07 or
newer in production.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

from ...errors import PlatformError
from ...finetune.processes.locking import exclusive
from ..releases.advisories import EXEMPT, release_key, what_it_lacks
from .pytriton_wheel import TRITON_RELEASE, TRITON_VERSION, fetch_wheel, unpacked_folder

__all__ = ["Triton", "compose_backends", "find_triton", "release_note", "triton_status"]

_CONTAINER = "serve the repository with a container of 26.07 or newer (`rtool serve --container`)"
_OURS = Path(__file__).resolve().parent.parent / "backends"
_ROOT = _OURS.parent.parent
_SHARED = {name: _OURS / name for name in ("model_file_backend.py", "triton_tensors.py")}
_READERS = "rtool_readers"
"""The package beside the PyTorch back end that has rtool's readers of torch files, and nothing else of rtool."""
_COMPOSE_SECONDS = 60.0
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "4",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
}
"""For glibc's malloc (mallopt(3)): keep the buffers of requests instead of giving them back to the kernel after each.

A request of 16 float32 crops has 1.6 MB. Page faults of fresh buffers were a quarter of the processor time that the
server's own process took per row (by gRPC 0.15 against 0.10 ms). It costs memory: after 200 such requests had waited at
once the process kept 207 to 235 MiB, and 165 with glibc's own settings. A trim threshold of 32 MiB kept 273 to 373, and
was no faster."""


@dataclass(frozen=True)
class Triton:
    """A `tritonserver` that can be started. `root` is the unpacked wheel, None for one on PATH."""

    binary: Path
    root: Path | None = None

    @property
    def embedded(self) -> bool:
        """Whether this is the build that rtool downloads itself."""
        return self.root is not None

    @property
    def release(self) -> str | None:
        """The release, such as "24.10"; of a server on PATH only where NVIDIA's image states it, else None."""
        if self.embedded:
            return TRITON_RELEASE
        stated = os.environ.get("NVIDIA_TRITON_SERVER_VERSION", "")
        try:
            release_key(stated)
        except ValueError:
            return None
        return stated

    def environment(self) -> dict[str, str]:
        """The environment variables with which the server is started."""
        environment = dict(os.environ)
        if self.root is not None:
            folders = [self.root / "nvidia_pytriton.libs", _python_library_folder(), environment.get("LD_LIBRARY_PATH")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(str(folder) for folder in folders if folder)
            # The stub embeds an isolated interpreter that ignores PYTHONPATH and PYTHONHOME and finds its
            # site-packages through the first `python3` on PATH: it has to be ours.
            environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
            environment = {**_ALLOCATOR, **environment}  # the user's own values stay
        return environment


def find_triton(*, fetch: bool = True, embedded: bool = False) -> Triton:
    """The server to run; `embedded` passes over the one on PATH.

    The embedded one is downloaded on first use; with `fetch=False` its path may not exist yet.

    Raises:
        PlatformError: none on PATH, and no embedded build for this platform and Python, or the download fails.
    """
    if not embedded and (found := shutil.which("tritonserver")):
        return Triton(Path(found).absolute())  # it is started in another folder
    if problem := _why_not_embedded():
        raise PlatformError(f"no tritonserver on PATH, and {problem}")
    root = fetch_wheel() if fetch else unpacked_folder()
    return Triton(root / "pytriton/tritonserver/bin/tritonserver", root)


def triton_status() -> tuple[str, str]:
    """(what would be used, advice) for `rtool doctor`; downloads and starts nothing."""
    if found := shutil.which("tritonserver"):
        return f"tritonserver on PATH ({found})", release_note(Triton(Path(found)), whole=True)
    if problem := _why_not_embedded():
        return "none", problem
    folder = unpacked_folder()
    if folder.is_dir():
        return f"embedded {TRITON_VERSION} ({folder})", release_note(Triton(folder, folder), whole=True)
    return f"embedded {TRITON_VERSION}, downloaded on first use (55 MB)", "run `rtool serve` once to download it"


def release_note(triton: Triton, *, whole: bool = False) -> str:
    """What the release of a server lacks, in a sentence for the user; `whole` names every fault."""
    release = triton.release
    if release is None:
        return "its release is not known here: compare it with the security bulletins in its release notes"
    faults = what_it_lacks(release, whole=whole)
    if not faults or release not in EXEMPT:
        return faults
    more = "" if whole else "; `rtool doctor` names all"
    return f"for development, {EXEMPT[release]}. {faults}{more}"


def compose_backends(triton: Triton) -> Path:
    """The back-end folder of the embedded server, created on first use beside the unpacked wheel.

    Its name contains the Python version and a digest of rtool's files, so that other versions of rtool use their own.

    Raises:
        PlatformError: the unpacked wheel is incomplete, or the cache cannot be written.
    """
    if triton.root is None:
        raise PlatformError(f"{triton.binary}: has its own back ends; only those of the embedded server are composed")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _our_files().values())).hexdigest()
    target = triton.root.with_name(f"backends-{_python_version()}-{triton.root.name[-12:]}-{digest[:12]}")
    if not target.is_dir():
        with exclusive(target.parent / ".lock", timeout=_COMPOSE_SECONDS, purpose="composing Triton's back ends"):
            if not target.is_dir():
                _compose(triton.root, target)
    return target


def _our_files() -> dict[str, Path]:
    """Every file of ours in the back-end folder, by its path there."""
    archives = _ROOT / "converters/files/torch_archives"
    readers = {f"converters/files/torch_archives/{path.name}": path for path in sorted(archives.glob("*.py"))}
    return {
        **{f"{backend}/{name}": path for backend in ("onnxruntime", "pytorch") for name, path in _SHARED.items()},
        "onnxruntime/model.py": _OURS / "onnxruntime_backend.py",
        "pytorch/model.py": _OURS / "pytorch_backend.py",
        f"pytorch/{_READERS}/errors.py": _ROOT / "errors.py",
        **{f"pytorch/{_READERS}/{name}": path for name, path in readers.items()},
    }


def _compose(root: Path, target: Path) -> None:
    server = root / "pytriton/tritonserver"
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".compose-"))
    try:
        shutil.copytree(server / "backends/python", scratch / "backends/python")
        shutil.copy2(_stub(server), scratch / "backends/python")
        for name, source in _our_files().items():
            place = scratch / "backends" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
        os.rename(scratch / "backends", target)
    except OSError as error:
        raise PlatformError(
            f"{root}: the unpacked Triton is incomplete ({error}); delete this folder and try again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _stub(server: Path) -> Path:
    return server / "python_backend_stubs" / _python_version() / "triton_python_backend_stub"


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _why_not_embedded() -> str:
    """Why the embedded build cannot run on this machine, and what to do; empty when it can."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"the embedded Triton needs Linux x86_64, this is {system} {machine}; {_CONTAINER}"
    library, version = platform.libc_ver()
    if library != "glibc" or _numbers(version) < (2, 35):
        return f"the embedded Triton needs glibc 2.35, this is {library or 'another libc'} {version}; {_CONTAINER}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return (
            f"the embedded Triton has stubs up to Python 3.13, this is {_python_version()}; use Python 3.11 to 3.13, "
            f"or {_CONTAINER}"
        )
    if not _has_python_library():
        return (
            f"the embedded Triton needs lib{_library_name()}, which this Python lacks; install it (Debian: apt install "
            f"libpython{_python_version()}) or {_CONTAINER}"
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _library_name() -> str:
    return f"python{_python_version()}.so.1.0"


def _python_library_folder() -> Path | None:
    """The folder of this Python's shared library; in relocated builds LIBDIR does not exist."""
    stated = Path(str(sysconfig.get_config_var("LIBDIR")))
    folders = (stated, Path(sys.base_prefix) / "lib")
    return next((folder for folder in folders if (folder / f"lib{_library_name()}").is_file()), None)


def _has_python_library() -> bool:
    return _python_library_folder() is not None or find_library(f"python{_python_version()}") is not None
