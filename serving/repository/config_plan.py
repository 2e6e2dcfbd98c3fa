"""Which configurations a publish writes: new ones, or those served so far with other versions and warm-up.

People tune a configuration by hand (delays, instances, rate limits). A later publish of a model with the same inputs
and outputs preserves their edits, unless settings are given explicitly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...converters.preprocessing.decision import PreprocessingDecision
from .config_rules import backend_of, check_against_graph
from .devices import gpu_present
from .graph_signature import GraphSignature
from .model_config import (
    Device,
    ModelConfig,
    ServingSettings,
    build_config,
    read_config,
    set_versions,
    set_warmup,
    write_config,
)
from .repository import CONFIG_FILE, VARIANTS, ModelFolder
from .served_preprocessing import state_preprocessing
from .warmup import WarmupFile

__all__ = ["ConfigPlan", "device_of", "plan_configs"]


@dataclass(frozen=True)
class ConfigPlan:
    """The configurations to write, by path below the model folder, and the device of `config.pbtxt`."""

    configs: dict[str, ModelConfig]
    device: Device

    def texts(self) -> dict[str, str]:
        """The configurations as protobuf text."""
        return {path: write_config(config) for path, config in self.configs.items()}


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

    A configuration in `folder` that fits the graph is reused when `settings` is None. `device` "auto" keeps the device
    that serves now; for a new model it selects a GPU where the machine has one. `preprocessing` is stated where it is
    known.

    Raises:
        ConfigError: an existing configuration does not parse.
        InputError: the graph's inputs and outputs disagree on the batch axis.
    """
    served = _reusable(folder, None, signature) if settings is None else None
    chosen = _choose_device(device, served)
    variants = {}
    for variant in VARIANTS:
        existing = _reusable(folder, variant, signature) if settings is None else None
        variants[variant] = existing or build_config(
            folder.name, signature, versions, device=variant, settings=settings or ServingSettings()
        )
    default = served if served is not None and device_of(served) == chosen else _copy(variants[chosen])
    configs = {CONFIG_FILE: default, **{f"configs/{variant}.pbtxt": config for variant, config in variants.items()}}
    for config in configs.values():
        set_versions(config, versions)
        state_preprocessing(config, preprocessing)
        if warmup:
            set_warmup(config, warmup)
    return ConfigPlan(configs, chosen)


def _choose_device(device: Literal["auto", "cpu", "gpu"], served: ModelConfig | None) -> Device:
    if device != "auto":
        return device
    if served is not None:
        return device_of(served)
    return "gpu" if gpu_present() else "cpu"


def _reusable(folder: ModelFolder, variant: Device | None, signature: GraphSignature) -> ModelConfig | None:
    """The existing configuration, when it fits the graph."""
    path = folder.config_path if variant is None else folder.path / "configs" / f"{variant}.pbtxt"
    if not path.is_file():
        return None
    config = read_config(path)
    if backend_of(config) != "onnxruntime" or list(check_against_graph(config, signature)):
        return None
    config.ClearField("default_model_filename")  # the weights are published under their usual name
    return config


def _copy(config: ModelConfig) -> ModelConfig:
    copied = type(config)()
    copied.CopyFrom(config)
    return copied
