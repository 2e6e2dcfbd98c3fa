"""Triton model configurations: built from a graph's signature, written and read as protobuf text.

The messages are Triton's own (`tritonclient.grpc.model_config_pb2`) and so is the parser of their text, which reports
line and column. The fields are those of Triton's `model_config.proto`. Two kinds of configuration are built, following
the rules of Triton's ONNX Runtime back end:

- fixed batch: `max_batch_size: 0` and dims that include the batch (with any other value the model does not load);
- dynamic batch: `max_batch_size: N`, dims without the batch axis, and dynamic batching.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import ConfigError, InputError
from .graph_signature import GraphSignature, GraphTensor
from .warmup import WarmupFile

__all__ = ["Device", "ModelConfig", "ServingSettings", "build_config", "parse_config", "read_config", "write_config"]

Device = Literal["cpu", "gpu"]
ModelConfig = Any
"""`tritonclient.grpc.model_config_pb2.ModelConfig`, which has no type annotations."""

_HEADER = "# Written by `rtool deploy`. Later publishes keep what is edited here, except versions and warm-up.\n"


@dataclass(frozen=True)
class ServingSettings:
    """What a configuration states beyond the graph itself. Times in milliseconds."""

    max_batch: int = 64
    """Largest batch, in rows, that Triton forms for a graph with a dynamic batch; unused for a fixed batch."""
    max_delay: float = 2.0
    """How long the first request of a batch waits for others; unused for a fixed batch."""
    instances: int = 1
    """Sessions in parallel; each has its own copy of the weights."""
    threads: int | None = None
    """Intra-op threads per session on the CPU; None divides the cores among the instances."""
    queue_timeout: float | None = None
    """Reject a request that was queued for longer; None lets it wait."""

    def __post_init__(self) -> None:
        """Reject values that no server supports.

        Raises:
            ConfigError: a value is out of range.
        """
        limits = (
            ("max_batch", self.max_batch, 1),
            ("max_delay", self.max_delay, 0),
            ("instances", self.instances, 1),
            ("threads", self.threads, 1),
            ("queue_timeout", self.queue_timeout, 0.001),
        )
        for name, value, least in limits:
            if value is not None and not value >= least:
                raise ConfigError(f"serving setting {name}: expected at least {least}, got {value}")


def build_config(
    name: str,
    signature: GraphSignature,
    versions: Sequence[int],
    *,
    device: Device,
    settings: ServingSettings,
    warmup: Sequence[WarmupFile] = (),
) -> ModelConfig:
    """The complete configuration of one model, so that the server has nothing to complete.

    Raises:
        InputError: the graph's inputs and outputs disagree on the batch axis.
    """
    config = _empty()
    config.name = name
    config.backend = "onnxruntime"
    batched = signature.batch is None
    config.max_batch_size = settings.max_batch if batched else 0
    for tensor in signature.inputs:
        config.input.add(**_io(tensor, batched))
    for tensor in signature.outputs:
        config.output.add(**_io(tensor, batched))
    _set_instances(config, device, settings, batched)
    if batched:
        _set_dynamic_batching(config, settings)
    set_versions(config, versions)
    set_warmup(config, warmup)
    return config


def build_packer_config(
    name: str, target: ModelConfig, *, batch: int, versions: Sequence[int], max_delay: float, instances: int
) -> ModelConfig:
    """The configuration of a packer for `target`: the same tensors without the batch axis, batched by Triton.

    `batch` is the target's fixed batch in rows, `max_delay` the milliseconds that a batch waits to fill.
    """
    config = _empty()
    config.name = name
    config.backend = "python"
    config.max_batch_size = batch
    for entry in target.input:
        config.input.add(name=entry.name, data_type=entry.data_type, dims=entry.dims[1:])
    for entry in target.output:
        config.output.add(name=entry.name, data_type=entry.data_type, dims=entry.dims[1:])
    config.instance_group.add(kind=_messages().ModelInstanceGroup.KIND_CPU, count=instances)
    config.parameters["TARGET_MODEL"].string_value = target.name
    config.dynamic_batching.max_queue_delay_microseconds = round(max_delay * 1000)
    set_versions(config, versions)
    return config


def intra_op_threads(config: ModelConfig) -> int | None:
    """Intra-op threads per session on the CPU; None where ONNX Runtime chooses."""
    key = "intra_op_thread_count"
    return int(config.parameters[key].string_value) if key in config.parameters else None


def target_model(config: ModelConfig) -> str | None:
    """The model a packer calls, None for any other model."""
    return str(config.parameters["TARGET_MODEL"].string_value) if "TARGET_MODEL" in config.parameters else None


def set_versions(config: ModelConfig, versions: Sequence[int]) -> None:
    """Serve exactly `versions`."""
    config.ClearField("version_policy")
    config.version_policy.specific.versions.extend(sorted(set(versions)))


def set_warmup(config: ModelConfig, files: Sequence[WarmupFile]) -> None:
    """Warm up with `files`: with a full batch, and with a single row as well where the batch is dynamic."""
    config.ClearField("model_warmup")
    if not files:
        return
    limit = config.max_batch_size
    batches = [("full", 1)] if limit == 0 else [("one", 1), ("full", limit)]
    for sample_name, batch in batches if limit != 1 else batches[:1]:
        sample = config.model_warmup.add(name=sample_name, batch_size=batch)
        for file in files:
            entry = sample.inputs[file.input]
            entry.data_type = _data_type(file.data_type)
            entry.dims.extend(file.dims)
            entry.input_data_file = file.file_name


def served_versions(config: ModelConfig) -> tuple[int, ...]:
    """The versions that a `specific` version policy lists; empty for any other policy."""
    return tuple(config.version_policy.specific.versions)


def parse_config(text: str, place: Path) -> ModelConfig:
    """The configuration in `text`.

    Raises:
        ConfigError: it does not parse; the message names `place`, line and column.
    """
    from google.protobuf import text_format

    config = _empty()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ConfigError(f"{place}:{error}; see Triton's model_config.proto for the fields it knows") from error
    return config


def read_config(path: Path) -> ModelConfig:
    """The configuration in a file.

    Raises:
        InputError: the file is missing or not text.
        ConfigError: it does not parse.
    """
    try:
        return parse_config(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; publish the model with `rtool deploy`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error


def write_config(config: ModelConfig) -> str:
    """The configuration as protobuf text."""
    from google.protobuf import text_format

    text = str(text_format.MessageToString(config, use_short_repeated_primitives=True))
    if config.max_batch_size == 0:
        # protobuf does not print defaults, but readers look for this line.
        name, _, rest = text.partition("\n")
        text = f"{name}\nmax_batch_size: 0\n{rest}"
    return _HEADER + text


def type_name(data_type: int) -> str:
    """The name of a `DataType` number of `model_config.proto`, e.g. `TYPE_FP32`."""
    return str(_messages().DataType.Name(data_type))


def _messages() -> Any:
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2


def _empty() -> ModelConfig:
    return _messages().ModelConfig()


def _data_type(name: str) -> int:
    return int(_messages().DataType.Value(name))


def _io(tensor: GraphTensor, batched: bool) -> dict[str, Any]:
    if not tensor.dims:
        raise InputError(f"tensor {tensor.name!r} is a scalar; Triton needs at least one axis: export it with a batch")
    dims = tensor.dims[1:] if batched else tensor.dims
    io: dict[str, Any] = {"name": tensor.name, "data_type": _data_type(tensor.data_type), "dims": dims}
    if batched and not dims:
        # One value per row: Triton has no empty dims, so a row is declared as a vector of one and reshaped to a scalar.
        io |= {"dims": [1], "reshape": {"shape": []}}
    return io


def _set_instances(config: ModelConfig, device: Device, settings: ServingSettings, batched: bool) -> None:
    kinds = _messages().ModelInstanceGroup
    kind = kinds.KIND_GPU if device == "gpu" else kinds.KIND_CPU
    config.instance_group.add(kind=kind, count=settings.instances)
    if device == "gpu":
        # The accelerator block would overwrite these with defaults; `parameters` reach the session.
        # Exhaustive search runs once for a fixed batch, but again for every size of a dynamic one.
        config.parameters["cudnn_conv_algo_search"].string_value = "1" if batched else "0"
        config.parameters["arena_extend_strategy"].string_value = "1"
        return
    threads = settings.threads
    if threads is None and settings.instances > 1:
        threads = max(1, (os.cpu_count() or 1) // settings.instances)
    if threads is not None:
        config.parameters["intra_op_thread_count"].string_value = str(threads)


def _set_dynamic_batching(config: ModelConfig, settings: ServingSettings) -> None:
    # The preferred size stays unset, which means max_batch_size: a smaller one lets Triton form preferred + 1.
    config.dynamic_batching.max_queue_delay_microseconds = round(settings.max_delay * 1000)
    if settings.queue_timeout is not None:
        policy = config.dynamic_batching.default_queue_policy
        policy.default_timeout_microseconds = round(settings.queue_timeout * 1000)
        policy.allow_timeout_override = True
