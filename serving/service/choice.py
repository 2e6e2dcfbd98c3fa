"""Which server runs a repository: `tritonserver` on PATH, else NVIDIA's container, else the embedded wheel; and why.

A container counts only where its engine runs and the image is there: nothing of 20 GB is downloaded unasked. Without an
engine or the image, the reason names what is missing.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

from ...errors import PlatformError
from ..server.container import IMAGE
from ..server.embedded import Triton, find_triton

__all__ = ["Kind", "ServerChoice", "choose_server", "why_no_container"]

Kind = Literal["path", "container", "embedded"]
_SECONDS = 10.0


@dataclass(frozen=True)
class ServerChoice:
    """`kind` of the server, the one to start where it is not a container, and the reason in a sentence."""

    kind: Kind
    triton: Triton | None
    why: str


def choose_server(kind: Kind | None = None, *, fetch: bool = True, dry: bool = False) -> ServerChoice:
    """The first server that this machine has, or the one of `kind`.

    `fetch` downloads the embedded one on first use; `dry` accepts a container that could not be started here.

    Raises:
        PlatformError: there is none, or none of that kind; the message says what is missing.
    """
    on_path = shutil.which("tritonserver")
    if kind == "path" or (kind is None and on_path):
        if not on_path:
            raise PlatformError("no tritonserver on PATH; leave --runtime out, or install one")
        return ServerChoice("path", find_triton(), f"tritonserver on PATH ({on_path})")
    missing = why_no_container() if kind != "embedded" else "asked for"
    if kind == "container" or (kind is None and not missing):
        if missing and not dry:
            raise PlatformError(f"no container: {missing}")
        return ServerChoice("container", None, f"container {IMAGE}")
    why = "asked for" if kind == "embedded" else f"no tritonserver on PATH; no container: {missing}"
    triton = find_triton(embedded=True, fetch=fetch)
    return ServerChoice("embedded", triton, f"embedded Triton {triton.release}: {why}")


def why_no_container(image: str = IMAGE) -> str:
    """What keeps the container from being started: no engine, none that runs, no image; "" where nothing does."""
    engine = shutil.which("docker")
    if engine is None:
        return "docker is not on PATH"
    if not _succeeds([engine, "info"]):
        return "docker is on PATH, but its engine does not run (or this user may not use it)"
    if not _succeeds([engine, "image", "inspect", image]):
        return f"the image is not here; get it with `docker pull {image}`"
    return ""


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
