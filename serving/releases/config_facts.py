"""What a release of Triton takes in a configuration: fields, back ends, platforms, data types.

Sources: the server's release notes and the back ends' repositories (`.pt2`: README and `src/pt2` of pytorch_backend).
`embedded` means the server that rtool downloads, release 24.10 with Python back ends of ours, which have less than
NVIDIA's image of 24.10; its ONNX Runtime and torch are those installed beside rtool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .advisories import release_key

__all__ = ["config_problems"]

_FIELD_SINCE = {"ensemble_scheduling.max_inflight_requests": "25.11"}
"""Field of ModelConfig -> the first release whose parser knows it; an older one refuses the whole file."""

_PLATFORM_SINCE = {"torch_aoti": "26.03"}
"""Platform -> the first release that has it: compiled `.pt2` came to the PyTorch back end with its branch r26.03."""

_IMAGE_BACKENDS = frozenset(
    {"onnxruntime", "tensorrt", "pytorch", "python", "ensemble", "dali", "fil", "openvino", "identity"}
)
"""Back ends in NVIDIA's `-py3` images."""

_EMBEDDED_BACKENDS = frozenset({"onnxruntime", "pytorch", "python", "ensemble"})
_TORCH_TYPES = frozenset(
    f"TYPE_{name}" for name in ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING")
)
"""What the PyTorch back end carries (`ModelConfigDataTypeToTorchType`)."""
_OF_CPP = ("ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING", "ENABLE_TENSOR_FUSER")
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
    if backend == "pytorch":
        yield from _pytorch(config, embedded=embedded)
    if embedded and backend in ("onnxruntime", "pytorch"):
        yield from _backend_of_ours(config)


def _pytorch(config: Any, *, embedded: bool) -> Iterator[str]:
    for entry in (*config.input, *config.output):
        if (name := _type_name(config, entry)) not in _TORCH_TYPES:
            yield f"{entry.name}: the PyTorch back end has no {name}"
    if config.platform != "torch_aoti":
        keys = [key for key in _OF_CPP if embedded and key in config.parameters]
        if keys:
            yield f"parameters {', '.join(keys)} need the C++ back end of the image"
        return
    if embedded:
        yield "platform 'torch_aoti' is machine code, which needs the C++ back end of the image"
    if config.max_batch_size > 1:
        yield f"platform 'torch_aoti' takes no batches yet, and max_batch_size is {config.max_batch_size}"


def _type_name(config: Any, entry: Any) -> str:
    types = config.DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
    return str(types.values_by_number[entry.data_type].name)


def _backend_of_ours(config: Any) -> Iterator[str]:
    for entry in (*config.input, *config.output):
        name = _type_name(config, entry)
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
