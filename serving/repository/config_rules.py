"""The rules that a Triton configuration must follow to serve a given model file, checked without a server.

The C++ ONNX Runtime back end checks most of them when it loads a model, the embedded Python back end does not, and some
settings (warm-up with batch size 0, dynamic batching without a batch axis) are accepted and have no effect. The fields
are those of Triton's `model_config.proto`; the rules follow Triton's `model_config_utils.cc`,
`dynamic_batch_scheduler.cc`, `backend_model_instance.cc` and `onnxruntime_utils.cc`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, nearest
from .graph_signature import GraphSignature, GraphTensor
from .model_config import ModelConfig, type_name
from .signatures.torch_configured import as_configured

__all__ = ["BACKEND_KEYS", "backend_of", "check_against_graph", "check_settings", "check_warmup"]

_PLATFORMS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime_onnx",),
    "tensorrt": ("tensorrt_plan",),
    "pytorch": ("pytorch_libtorch", "torch_aoti"),
}
"""Back end -> the platforms that name it; the PyTorch one serves TorchScript and compiled programs."""
_NUMBERS = (
    "INTER_OP_THREAD_COUNT",
    "INTRA_OP_THREAD_COUNT",
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
)
_CUDA_IN_PARAMETERS = ("cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream")


_SESSION_PARAMETERS = (
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    "memory.enable_memory_arena_shrinkage",
    "session.use_device_allocator_for_initializers",
    *_CUDA_IN_PARAMETERS,
)
_TORCH_PARAMETERS = (
    "DISABLE_CUDNN",
    "DISABLE_OPTIMIZED_EXECUTION",
    "ENABLE_CACHE_CLEANING",
    "ENABLE_JIT_EXECUTOR",
    "ENABLE_JIT_PROFILING",
    "ENABLE_TENSOR_FUSER",
    "ENABLE_WEIGHT_SHARING",
    "INFERENCE_MODE",
    "INTER_OP_THREAD_COUNT",
    "INTRA_OP_THREAD_COUNT",
)
_KEYS: Mapping[str, tuple[str, ...]] = {"onnxruntime": _SESSION_PARAMETERS, "pytorch": _TORCH_PARAMETERS}
"""Back end -> the keys that it reads; it silently ignores every other key."""
BACKEND_KEYS = frozenset((*_SESSION_PARAMETERS, *_TORCH_PARAMETERS))
"""All of them."""


def backend_of(config: ModelConfig) -> str:
    """`onnxruntime`, `python`, `ensemble`, ... as `backend` or the older `platform` names it."""
    if config.backend:
        return str(config.backend)
    by_platform = {platform: backend for backend, platforms in _PLATFORMS.items() for platform in platforms}
    return by_platform.get(config.platform, str(config.platform))


def check_settings(config: ModelConfig, name: str) -> Iterator[str]:
    """Problems of a configuration by itself: names, back end, batching, instances, parameters.

    `name` is the folder's. One message per problem; each names the field, what was expected and what to do.
    """
    if config.name != name:
        yield f"name: expected {name!r} (the folder's name), got {config.name!r}; rename one of them"
    backend = backend_of(config)
    if not backend:
        yield 'backend: missing; write backend: "onnxruntime"'
    if config.platform and config.backend and config.platform not in _PLATFORMS.get(config.backend, ()):
        yield f"platform: {config.platform!r} does not belong to backend {config.backend!r}; remove the platform"
    if not config.input or not config.output:
        yield "input, output: both must be written out, because auto-completion is switched off"
    file = config.default_model_filename
    if file and (Path(file).name != file or file == ".."):
        yield f"default_model_filename: expected the name of a file in the version folder, got {file!r}"
    yield from _check_batching(config)
    for group in config.instance_group:
        if group.count < 1:
            yield f"instance_group: count must be at least 1, got {group.count}"
    for key in _NUMBERS:
        value = config.parameters[key].string_value if key in config.parameters else "0"
        if not value.isdigit():
            yield f"parameters: {key} expects a number as its string_value, got {value!r}"
    known = _KEYS.get(backend, ())
    for key in config.parameters if known else ():
        near = get_close_matches(key.upper() if backend == "pytorch" else key, known, n=1, cutoff=0.8)
        if key not in known and near:
            yield f"parameters: the back end ignores the unknown key {key!r}; did you mean {near[0]}?"
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        for key in _CUDA_IN_PARAMETERS:
            if accelerator.name == "cuda" and key in accelerator.parameters:
                yield f"optimization: {key} of the cuda accelerator is overwritten by defaults; move it to parameters"


def _check_batching(config: ModelConfig) -> Iterator[str]:
    limit = config.max_batch_size
    if limit < 0:
        yield f"max_batch_size: expected 0 or more, got {limit}"
    if not config.HasField("dynamic_batching"):
        return
    if limit == 0:
        yield (
            "dynamic_batching: never batches with max_batch_size 0; remove it, or export the model with "
            "`--batch dynamic` and set max_batch_size"
        )
        return
    preferred = list(config.dynamic_batching.preferred_batch_size)
    if preferred and max(preferred) > limit:
        yield f"dynamic_batching: preferred_batch_size {max(preferred)} exceeds max_batch_size {limit}"
    elif preferred and max(preferred) < limit:
        yield (
            f"dynamic_batching: the largest preferred_batch_size {max(preferred)} is below max_batch_size {limit}, "
            f"and Triton can form {max(preferred)} + 1 (server issue 8141); set it to {limit} or leave it out"
        )


def check_against_graph(config: ModelConfig, signature: GraphSignature) -> Iterator[str]:
    """Disagreements of a configuration with the file that it serves: back end, names, types, dims, the batch axis."""
    if backend_of(config) != signature.backend:
        yield (
            f"backend: {backend_of(config)!r} does not serve {signature.path.name}, which {signature.backend} does; "
            "all versions that one configuration serves need the same back end"
        )
        return
    try:
        signature = as_configured(signature, config)
    except InputError as error:
        yield str(error)
        return
    yield from _check_names("input", config.input, signature.inputs, all_needed=True)
    yield from _check_names("output", config.output, signature.outputs, all_needed=False)
    for kind, entries, tensors in (
        ("input", config.input, signature.inputs),
        ("output", config.output, signature.outputs),
    ):
        by_name = {tensor.name: tensor for tensor in tensors}
        for entry in entries:
            if entry.name in by_name:
                yield from _check_tensor(kind, entry, by_name[entry.name], config.max_batch_size)


def _check_names(
    kind: str, entries: Iterable[Any], tensors: Iterable[GraphTensor], *, all_needed: bool
) -> Iterator[str]:
    known = [tensor.name for tensor in tensors]
    given = [entry.name for entry in entries]
    for name in given:
        if name not in known:
            yield f"{kind} {name!r}: the graph has no such {kind}; {nearest(name, known)}"
        if given.count(name) > 1:
            yield f"{kind} {name!r}: listed {given.count(name)} times"
    missing = [name for name in known if name not in given]
    if missing and (all_needed or len(missing) == len(known)):
        yield f"{kind}: the graph's {', '.join(map(repr, missing))} is missing"


def _check_tensor(kind: str, entry: Any, tensor: GraphTensor, max_batch: int) -> Iterator[str]:
    place = f"{kind} {tensor.name!r}"
    if type_name(entry.data_type) != tensor.data_type:
        yield f"{place}: data_type expected {tensor.data_type}, got {type_name(entry.data_type)}"
    dims = list(entry.reshape.shape if entry.HasField("reshape") else entry.dims)
    graph = list(tensor.dims)
    if max_batch > 0:
        if not graph or graph[0] != -1:
            found = f"a fixed batch of {graph[0]}" if graph else "no axis"
            yield (
                f"{place}: max_batch_size {max_batch} needs a dynamic batch axis, the graph has {found}; set "
                f"max_batch_size: 0 and dims: {graph}, or run `rtool export MODEL --batch dynamic`"
            )
            return
        graph = graph[1:]
    fits = len(dims) == len(graph) and all(
        written == real or (kind == "input" and real == -1 and written > 0)
        for written, real in zip(dims, graph, strict=True)
    )
    if not fits:
        yield f"{place}: dims expected {graph}, got {dims}"


def check_warmup(
    config: ModelConfig, folder: Path, size_of: Callable[[Path], int | None] | None = None
) -> Iterator[str]:
    """Problems of the warm-up requests: samples that are skipped, missing inputs, wrong numbers of bytes.

    `folder` is the model's. `size_of` gives the bytes of a warm-up file, None for a missing one; by default it looks on
    the disk.
    """
    measure = size_of or _size
    inputs = {entry.name: entry for entry in config.input}
    for sample in config.model_warmup:
        place = f"model_warmup {sample.name!r}"
        if sample.batch_size == 0:
            yield f"{place}: batch_size 0 is silently skipped; write 1"
        elif sample.batch_size > max(config.max_batch_size, 1):
            yield f"{place}: batch_size {sample.batch_size} exceeds {max(config.max_batch_size, 1)}"
        for name in set(inputs) - set(sample.inputs):
            yield f"{place}: input {name!r} is missing"
        for name, given in sample.inputs.items():
            if name not in inputs:
                yield f"{place}: unknown input {name!r}; {nearest(name, inputs)}"
            else:
                yield from _check_warmup_input(f"{place}, input {name!r}", given, inputs[name], folder, measure)


def _check_warmup_input(
    place: str, given: Any, entry: Any, folder: Path, measure: Callable[[Path], int | None]
) -> Iterator[str]:
    if given.data_type != entry.data_type:
        yield f"{place}: data_type expected {type_name(entry.data_type)}, got {type_name(given.data_type)}"
        return
    dims, wanted = list(given.dims), list(entry.dims)
    if len(dims) != len(wanted) or any(w not in (-1, d) or d < 1 for d, w in zip(dims, wanted, strict=True)):
        yield f"{place}: dims expected {wanted}, got {dims}"
        return
    if given.WhichOneof("input_data_type") == "random_data" and "FP" in type_name(given.data_type):
        yield f"{place}: random_data gives floats random bytes (NaN, denormals); use input_data_file"
    if given.WhichOneof("input_data_type") != "input_data_file":
        return
    path = folder / "warmup" / given.input_data_file
    found = measure(path)
    expected = math.prod(dims) * _item_size(entry)
    if found is None:
        yield f"{place}: {path} is missing"
    elif found != expected:
        yield f"{place}: {path} expected {expected} bytes for {dims}, got {found}"


def _item_size(entry: Any) -> int:
    try:
        return int(GraphTensor(entry.name, type_name(entry.data_type), ()).dtype.itemsize)
    except InputError:
        return np.dtype(np.uint16).itemsize  # BF16, the only type of a fixed size that NumPy lacks


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
