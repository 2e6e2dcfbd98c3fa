"""Triton model configurations: built from a graph's signature, written and read as protobuf text.

The messages are Triton's own (`tritonclient.grpc.model_config_pb2`) and so is the parser of their text, which reports
line and column. The fields are those of Triton's `model_config.proto`. Two kinds of configuration are built, following
the rules of Triton's ONNX Runtime back end, which suit its PyTorch one:

- fixed batch: `max_batch_size: 0` and dims that include the batch (with any other value the model does not load);
- dynamic batch: `max_batch_size: N`, dims without the batch axis, and dynamic batching.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, InputError
from .graph_signature import GraphSignature, GraphTensor
from .serving_settings import Device, ServingSettings, apply_settings, thread_key
from .warmup import WarmupFile

__all__ = ["ModelConfig", "build_config", "parse_config", "read_config", "write_config"]

ModelConfig = Any
"""`tritonclient.grpc.model_config_pb2.ModelConfig`, which has no type annotations."""

_HEADER = (
    "# Written by `rtool deploy`. Later publishes keep edits and comments, except in version_policy and model_warmup.\n"
)


_FILLS_FOR = {"cpu": 15_000, "gpu": 3_000}
"""Microseconds for which a packer's batch waits to fill, by its target's device. On two cores, at 0.8 of the
saturation, 14 ms fill batches to 83 % where 3 ms fill 76 %, and the 95th percentile of latency falls by a quarter."""

_SCRIPT_RUNS = 3
"""Of a warm-up request for TorchScript, which observes the first runs and compiles in the next."""


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
    config.backend = signature.backend
    if signature.backend == "pytorch":
        config.platform = "pytorch_libtorch"
    batched = signature.batch is None
    config.max_batch_size = 1 if batched else 0  # the settings say how many
    for tensor in signature.inputs:
        config.input.add(**_io(tensor, batched))
    for tensor in signature.outputs:
        config.output.add(**_io(tensor, batched))
    kinds = _messages().ModelInstanceGroup
    config.instance_group.add(kind=kinds.KIND_GPU if device == "gpu" else kinds.KIND_CPU)
    if device == "gpu" and signature.backend == "onnxruntime":
        # The accelerator block would overwrite these with defaults; `parameters` reach the session.
        # Exhaustive search runs once for a fixed batch, but again for every size of a dynamic one.
        config.parameters["cudnn_conv_algo_search"].string_value = "1" if batched else "0"
        config.parameters["arena_extend_strategy"].string_value = "1"
    # The preferred size stays unset, which means max_batch_size: a smaller one lets Triton form preferred + 1.
    apply_settings(config, settings.complete(batched, device), device)
    set_versions(config, versions)
    set_warmup(config, warmup)
    return config


def build_packer_config(name: str, target: ModelConfig, *, batch: int, versions: Sequence[int]) -> ModelConfig:
    """The configuration of a packer for `target`: the same tensors without the batch axis, batched by Triton.

    `batch` is the target's fixed batch in rows. Two instances, and about the time of a batch of the target for one to
    fill: the second instance forms its batch while the first one's is computed, and what is not in it then is padding.
    """
    config = _empty()
    config.name = name
    config.backend = "python"
    config.max_batch_size = batch
    for entry in target.input:
        config.input.add(name=entry.name, data_type=entry.data_type, dims=entry.dims[1:])
    for entry in target.output:
        config.output.add(name=entry.name, data_type=entry.data_type, dims=entry.dims[1:])
    kinds = _messages().ModelInstanceGroup
    config.instance_group.add(kind=kinds.KIND_CPU, count=2)
    config.parameters["TARGET_MODEL"].string_value = target.name
    on_gpu = any(group.kind == kinds.KIND_GPU for group in target.instance_group)
    config.dynamic_batching.max_queue_delay_microseconds = _FILLS_FOR["gpu" if on_gpu else "cpu"]
    set_versions(config, versions)
    return config


def intra_op_threads(config: ModelConfig) -> int | None:
    """Intra-op threads per session on the CPU; None where the runtime chooses."""
    key = thread_key(config)
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
        if config.backend == "pytorch":
            sample.count = _SCRIPT_RUNS
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
