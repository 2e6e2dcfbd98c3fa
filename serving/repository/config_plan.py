"""Which configurations a publish writes: those served so far, changed in what must change, or new ones.

People tune a configuration by hand (delays, instances, rate limits). A later publish keeps all of it: the given
settings change their own fields, another graph changes inputs, outputs and the kind of batch, and each publish changes
versions and warm-up. Comments and order stay (`config_text.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...converters.preprocessing.decision import PreprocessingDecision
from .config_rules import BACKEND_KEYS, backend_of, check_against_graph
from .config_text import edited_text, lost_comments
from .deployed import newest_served
from .devices import gpu_present
from .graph_signature import GraphSignature
from .model_config import (
    ModelConfig,
    build_config,
    intra_op_threads,
    read_config,
    set_versions,
    set_warmup,
    write_config,
)
from .repository import CONFIG_FILE, VARIANTS, ModelFolder
from .served_preprocessing import state_preprocessing
from .serving_settings import Device, ServingSettings, apply_settings, check_applicable, thread_key
from .variants.following import edited_fields, follow
from .variants.tensorrt import add_tensorrt
from .warmup import WarmupFile

__all__ = ["ConfigPlan", "device_of", "plan_configs"]


@dataclass(frozen=True)
class ConfigPlan:
    """The configurations to write, by path below the model folder, and the device of `config.pbtxt`."""

    configs: dict[str, ModelConfig]
    device: Device
    written: dict[str, Path] = field(default_factory=dict)
    """The file whose text a configuration continues, with its comments; new ones continue none."""

    def texts(self) -> dict[str, str]:
        """The configurations as protobuf text."""
        return {path: self._continued(path) or write_config(config) for path, config in self.configs.items()}

    def rewritten(self) -> tuple[str, ...]:
        """The files whose comments and order cannot be kept."""
        return tuple(path for path in self.written if self._continued(path) is None)

    def lost(self) -> tuple[str, ...]:
        """What is lost of comments in files that continue otherwise, one line per comment."""
        found = []
        for path, source in self.written.items():
            edited = self._continued(path)
            if edited is not None:
                found += [f"{path}: {comment}" for comment in lost_comments(source.read_text(), edited)]
        return tuple(found)

    def _continued(self, path: str) -> str | None:
        source = self.written.get(path)
        return edited_text(source.read_text(), self.configs[path], source) if source is not None else None


_EXTENDED = 1
"""Triton's number for ONNX Runtime's optimisations but the last, which are made for the CPU it runs on."""


def device_of(config: ModelConfig) -> Device:
    """`gpu` when an instance group has KIND_GPU, else `cpu`."""
    from tritonclient.grpc import model_config_pb2

    kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
    return "gpu" if any(group.kind == kind for group in config.instance_group) else "cpu"


def plan_configs(
    folder: ModelFolder,
    signature: GraphSignature,
    versions: Sequence[int],
    device: Literal["auto", "cpu", "gpu"],
    settings: ServingSettings | None,
    warmup: Sequence[WarmupFile],
    preprocessing: PreprocessingDecision | str,
) -> ConfigPlan:
    """The default configuration and one per device, each serving `versions`.

    A configuration in `folder` is continued, with `settings` changed alone. Edits of the served one reach the others
    (`variants/following.py`). `device` "auto" keeps the device that serves now; for a new model it selects a GPU where
    the machine has one. `preprocessing` is stated where it is known.

    Raises:
        ConfigError: an existing configuration does not parse, or has no place for a setting.
        InputError: the graph's inputs and outputs disagree on the batch axis, or a setting would have no effect.
    """
    settings = settings or ServingSettings()
    served = _existing(folder.config_path)
    chosen = _choose_device(device, served)
    check_applicable(settings, batch=signature.batch, device=chosen)
    edited = edited_fields(_written_manifest(folder), served, folder.config_path) if served is not None else ()
    configs: dict[str, ModelConfig] = {}
    written = {}
    for variant in VARIANTS:
        path = f"configs/{variant}.pbtxt"
        existing = _existing(folder.path / path)
        device_of_variant: Device = "cpu" if variant == "cpu" else "gpu"
        configs[path] = _planned(existing, folder.name, signature, versions, device_of_variant, settings)
        if served is not None:
            follow(configs[path], served, edited)
            apply_settings(configs[path], settings, device_of_variant)
        if variant == "trt" and signature.backend == "onnxruntime":
            add_tensorrt(configs[path], signature)
        if existing is not None:
            written[path] = folder.path / path
    if served is not None and device_of(served) == chosen:
        configs[CONFIG_FILE] = _planned(served, folder.name, signature, versions, chosen, settings)
        written[CONFIG_FILE] = folder.config_path
    else:
        configs[CONFIG_FILE] = _copy(configs[f"configs/{chosen}.pbtxt"])
        if f"configs/{chosen}.pbtxt" in written:
            written[CONFIG_FILE] = written[f"configs/{chosen}.pbtxt"]
    for config in configs.values():
        set_versions(config, versions)
        if signature.holds_back and device_of(config) == "cpu" and not config.optimization.graph.level:
            config.optimization.graph.level = _EXTENDED
        state_preprocessing(config, preprocessing)
        if warmup:
            set_warmup(config, warmup)
    return ConfigPlan(configs, chosen, written)


def _written_manifest(folder: ModelFolder) -> Mapping[str, Any] | None:
    """The manifest of the version that serves."""
    version = newest_served(folder)
    return folder.manifest(version) if version is not None else None


def _planned(
    existing: ModelConfig | None,
    name: str,
    signature: GraphSignature,
    versions: Sequence[int],
    device: Device,
    settings: ServingSettings,
) -> ModelConfig:
    if existing is None:
        return build_config(name, signature, versions, device=device, settings=settings)
    config = _copy(existing)
    config.ClearField("default_model_filename")  # the weights are published under their usual name
    if backend_of(config) != signature.backend:
        _move(config, build_config(name, signature, versions, device=device, settings=settings))
    if list(check_against_graph(config, signature)):
        _fit(config, build_config(name, signature, versions, device=device, settings=ServingSettings()))
    apply_settings(config, settings, device)
    return config


def _move(config: ModelConfig, fresh: ModelConfig) -> None:
    """Let another back end serve: what belongs to one is taken from `fresh`, except the number of threads."""
    key, threads = thread_key(config), intra_op_threads(config)
    for parameter in [name for name in config.parameters if name in BACKEND_KEYS]:
        del config.parameters[parameter]
    for name in ("backend", "platform", "optimization"):
        config.ClearField(name)
    config.backend, config.platform = fresh.backend, fresh.platform
    for parameter in fresh.parameters:
        config.parameters[parameter].CopyFrom(fresh.parameters[parameter])
    if threads is not None and key != thread_key(config):
        config.parameters[thread_key(config)].string_value = str(threads)


def _fit(config: ModelConfig, fresh: ModelConfig) -> None:
    """Take what another graph changes from `fresh`: inputs, outputs, the kind of batch; warm-up data fit no longer."""
    for name in ("input", "output"):
        config.ClearField(name)
        getattr(config, name).extend(getattr(fresh, name))
    config.ClearField("model_warmup")
    if (config.max_batch_size > 0) == (fresh.max_batch_size > 0):
        return
    config.max_batch_size = fresh.max_batch_size
    config.ClearField("dynamic_batching")
    if fresh.HasField("dynamic_batching"):
        config.dynamic_batching.CopyFrom(fresh.dynamic_batching)


def _choose_device(device: Literal["auto", "cpu", "gpu"], served: ModelConfig | None) -> Device:
    if device != "auto":
        return device
    if served is not None:
        return device_of(served)
    return "gpu" if gpu_present() else "cpu"


def _existing(path: Path) -> ModelConfig | None:
    """The configuration in a file, where there is one of a model that `deploy` publishes."""
    if not path.is_file():
        return None
    config = read_config(path)
    return config if backend_of(config) in ("onnxruntime", "pytorch") else None


def _copy(config: ModelConfig) -> ModelConfig:
    copied = type(config)()
    copied.CopyFrom(config)
    return copied
