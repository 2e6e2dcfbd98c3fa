"""The command that serves a repository from NVIDIA's container image, for production.

The image has the C++ back ends and the security fixes that the embedded server lacks. The command needs docker and, for
GPU configurations, the NVIDIA Container Toolkit. It was not tried: there was no container engine where it was written;
its options are those of Docker's and Triton's documentation.

Inside, Triton is not root, the file system and the repository are read-only, it may gain no privileges, and what
changes the server needs a key. The ports are published on 127.0.0.1 only; put your own gateway in front of them. The
key stands on Triton's command line, which a user of the host who sees its process list can read, so that without a need
for `deploy --url` the control mode is "none": then nothing can be loaded, with the key or without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...converters.runtime.calling.access_key import KEY_NAME
from .access import OPTIONS, RESTRICTED
from .ports import Ports

__all__ = ["IMAGE", "KEY_VARIABLE", "RELEASE", "container_command"]

RELEASE = "26.07"
"""The first release without an advisory that is known here (`releases/advisories.py`); a test compares."""

IMAGE = f"nvcr.io/nvidia/tritonserver:{RELEASE}-py3"

KEY_VARIABLE = "RTOOL_TRITON_KEY"
"""The environment variable by which the key reaches the container."""

_NOBODY = "65534:65534"


def container_command(
    repository: Path,
    *,
    models: Sequence[str],
    control: str = "none",
    config_name: str | None = None,
    ports: Ports = (8000, 8001, 8002),
    gpu: bool = False,
    image: str = IMAGE,
) -> list[str]:
    """The `docker run` command that serves `models`; `ports` on this machine are HTTP, gRPC and metrics.

    The repository is mounted read-only and must be readable for everybody. `control` is Triton's `--model-control-mode`
    (none, explicit or poll), `config_name` its `--model-config-name`; `gpu` passes all GPUs of the machine. The key is
    taken from the environment variable `RTOOL_TRITON_KEY`.
    """
    command = ["docker", "run", "--rm", "--init", f"--user={_NOBODY}", "--read-only", "--tmpfs=/tmp:mode=1777"]
    command += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--shm-size=1g", f"--env={KEY_VARIABLE}"]
    command += ["--gpus=all"] if gpu else []
    for outside, inside in zip(ports, (8000, 8001, 8002), strict=True):
        command.append(f"--publish=127.0.0.1:{outside}:{inside}")
    command += [f"--volume={repository.absolute()}:/models:ro", image]
    # A shell, because only it can put the key from the environment into an argument.
    restricted = [f'{option}={",".join(RESTRICTED)}:{KEY_NAME}="${KEY_VARIABLE}"' for option in OPTIONS]
    command += ["sh", "-c", f'umask 077; exec tritonserver {" ".join(restricted)} "$@"', "tritonserver"]
    command += ["--model-repository=/models", "--disable-auto-complete-config", f"--model-control-mode={control}"]
    command += ["--allow-sagemaker=false", "--allow-vertex-ai=false"]
    if control == "explicit":
        command += [f"--load-model={name}" for name in models]
    if config_name is not None:
        command.append(f"--model-config-name={config_name}")
    return command
