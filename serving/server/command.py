"""The command line of `tritonserver`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .access import PLACEHOLDERS
from .embedded import Triton
from .ports import HOST, PORT_NAMES, Ports

__all__ = ["Control", "server_command"]

Control = Literal["explicit", "none", "poll"]


def server_command(
    triton: Triton,
    repository: Path,
    *,
    models: Sequence[str],
    control: Control,
    ports: Ports,
    backends: Path | None,
    config_name: str | None = None,
    poll_seconds: int = 1,
    memory_prefix: str = "",
    metrics: bool = True,
) -> list[str]:
    """The `tritonserver` command line; `ports` are HTTP, gRPC and metrics, all on 127.0.0.1.

    `backends` is the back-end folder of the embedded server, `memory_prefix` starts the names of its shared memory.
    Automatic completion of configurations is off: rtool writes complete ones. The two options with the access key are
    placeholders, see `access.py`.
    """
    command = [str(triton.binary), f"--model-repository={repository.absolute()}"]
    if backends is not None:
        command.append(f"--backend-directory={backends}")
    for name, port in zip(PORT_NAMES, ports, strict=True):
        if metrics or name != "metrics":
            command += [f"--{name}-address={HOST}", f"--{name}-port={port}"]
    if not metrics:
        command.append("--allow-metrics=false")
    command += ["--reuse-http-port=true", "--reuse-grpc-port=true"]  # beside our own sockets, see `ports.py`
    command += [*PLACEHOLDERS, "--disable-auto-complete-config", f"--model-control-mode={control}"]
    if triton.embedded:
        # The doors of two cloud services, which the key does not close before 26.03 (CVE-2026-24207). A server on PATH
        # may be built without these options.
        command += ["--allow-sagemaker=false", "--allow-vertex-ai=false"]
    if control == "explicit":
        command += [f"--load-model={name}" for name in models]
    if control == "poll":
        command.append(f"--repository-poll-secs={poll_seconds}")
    if config_name is not None:
        command.append(f"--model-config-name={config_name}")
    if memory_prefix and triton.embedded:
        command.append(f"--backend-config=python,shm-region-prefix-name={memory_prefix}")
    return command
