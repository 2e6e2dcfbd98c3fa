"""What a release of Triton takes in a configuration: fields, back ends, platforms, data types.

Sources: the server's release notes and the back ends' repositories. `embedded` means the server that rtool downloads,
release 24.10 with a Python back end of ours, which has less than NVIDIA's image of 24.10; its ONNX Runtime is the one
installed beside rtool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .advisories import release_key

__all__ = ["config_problems"]

_FIELD_SINCE = {"ensemble_scheduling.max_inflight_requests": "25.11"}
"""Field of ModelConfig -> the first release whose parser knows it; an older one refuses the whole file."""

_PLATFORM_SINCE = {"torch_aoti": "26.01"}
"""Platform -> the first year whose releases have it: `.pt2` came to the PyTorch back end in 26.x."""

_IMAGE_BACKENDS = frozenset(
    {"onnxruntime", "tensorrt", "pytorch", "python", "ensemble", "dali", "fil", "openvino", "identity"}
)
"""Back ends in NVIDIA's `-py3` images."""

_EMBEDDED_BACKENDS = frozenset({"onnxruntime", "python", "ensemble"})
_NO_NUMPY = frozenset({"TYPE_BF16", "TYPE_STRING"})
"""Types that our back end cannot carry, because NumPy has none of a fixed size for them."""


def config_problems(config: Any, backend: str, release: str, *, embedded: bool = False) -> Iterator[str]:
    """Why a server of `release` refuses `config` (a ModelConfig with back end `backend`); one message per reason.

    Raises:
        ValueError: `release` is not one such as "24.10".
    """
    own = release_key(release)
    for path, since in _FIELD_SINCE.items():
        if _is_set(config, path) and own < release_key(since):
            yield f"{path} needs Triton {since} or newer; older servers refuse the file"
    newer = _PLATFORM_SINCE.get(config.platform)
    if newer is not None and own < release_key(newer):
        yield f"platform {config.platform!r} needs Triton {newer} or newer"
    if backend not in (_EMBEDDED_BACKENDS if embedded else _IMAGE_BACKENDS):
        yield f"backend {backend!r} is not part of {'the embedded server' if embedded else 'its image'}"
    if embedded and backend == "onnxruntime":
        yield from _backend_of_ours(config)


def _backend_of_ours(config: Any) -> Iterator[str]:
    types = config.DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
    for entry in (*config.input, *config.output):
        name = types.values_by_number[entry.data_type].name
        if name in _NO_NUMPY:
            yield f"{entry.name}: {name} cannot be carried by the embedded server"
    accelerators = config.optimization.execution_accelerators
    names = [one.name for one in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator)]
    if names:
        yield f"execution accelerators ({', '.join(names)}) need the C++ back end of the image"


def _is_set(config: Any, path: str) -> bool:
    *parents, field = path.split(".")
    for parent in parents:
        if not config.HasField(parent):
            return False
        config = getattr(config, parent)
    return bool(getattr(config, field))
