"""The command that serves a repository from NVIDIA's container image, for production.

The image has the C++ back ends and the security fixes of 2025. It needs docker and, for GPU configurations, the NVIDIA
Container Toolkit. The ports are published on 127.0.0.1 only; put your own gateway in front of them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...errors import PlatformError

__all__ = ["IMAGE", "container_command", "run_container"]

IMAGE = "nvcr.io/nvidia/tritonserver:25.09-py3"


def container_command(
    repository: Path,
    *,
    models: Sequence[str],
    control: str = "none",
    config_name: str | None = None,
    ports: tuple[int, int, int] = (8000, 8001, 8002),
    gpu: bool = False,
    image: str = IMAGE,
) -> list[str]:
    """The `docker run` command that serves `models`; `ports` on this machine are HTTP, gRPC and metrics.

    The repository is mounted read-only. `control` is Triton's `--model-control-mode` (none, explicit or poll),
    `config_name` its `--model-config-name`; `gpu` passes all GPUs of the machine.
    """
    command = ["docker", "run", "--rm", "--init", "--shm-size=1g"]
    command += ["--gpus=all"] if gpu else []
    for outside, inside in zip(ports, (8000, 8001, 8002), strict=True):
        command.append(f"--publish=127.0.0.1:{outside}:{inside}")
    command += [f"--volume={repository.absolute()}:/models:ro", image, "tritonserver", "--model-repository=/models"]
    command += ["--disable-auto-complete-config", f"--model-control-mode={control}"]
    if control == "explicit":
        command += [f"--load-model={name}" for name in models]
    if config_name is not None:
        command.append(f"--model-config-name={config_name}")
    return command


def run_container(command: Sequence[str]) -> int:
    """Run the command in the foreground and return its exit code; Ctrl-C stops the container.

    Raises:
        PlatformError: docker is not on PATH.
    """
    if shutil.which(command[0]) is None:
        raise PlatformError(f"{command[0]} is not on PATH; install it, or run the printed command where it is")
    process = subprocess.Popen(list(command))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # docker got the same Ctrl-C and is stopping the container
