"""Edits by hand of `config.pbtxt` reach the other configurations at the next publish.

What an edit is, the version's manifest tells: it has the text that rtool wrote. Where a field of the main configuration
differs from it, the others take the field over, unless it belongs to a device: the kind and GPUs of an instance group,
threads, and the keys of CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import ConfigError
from ..model_config import ModelConfig, parse_config

__all__ = ["CONFIG_KEY", "edited_fields", "follow"]

CONFIG_KEY = "config"
"""Of a manifest: the text of `config.pbtxt` as it was written."""

_OWN = frozenset(
    {"name", "backend", "platform", "input", "output", "version_policy", "model_warmup", "optimization"}
    | {"default_model_filename"}
)
"""Fields that a publish decides, or that belong to a device as a whole."""

_OF_DEVICE = frozenset(
    {
        "INTER_OP_THREAD_COUNT",
        "INTRA_OP_THREAD_COUNT",
        "intra_op_thread_count",
        "inter_op_thread_count",
        "cudnn_conv_algo_search",
        "gpu_mem_limit",
        "arena_extend_strategy",
        "do_copy_in_default_stream",
    }
)
"""Parameters that belong to a device."""


def edited_fields(manifest: Mapping[str, Any] | None, config: ModelConfig, path: Path) -> tuple[str, ...]:
    """Names of the fields in which `config` differs from what rtool wrote; none where that is not known."""
    text = (manifest or {}).get(CONFIG_KEY)
    if not isinstance(text, str):
        return ()
    try:
        written = parse_config(text, path)
    except ConfigError:
        return ()
    names = (field.name for field in config.DESCRIPTOR.fields if field.name not in _OWN)
    return tuple(name for name in names if _only(written, name) != _only(config, name))


def follow(variant: ModelConfig, config: ModelConfig, fields: tuple[str, ...]) -> None:
    """Take `fields` of `config` over into the configuration of another device, in place."""
    for name in fields:
        if name == "instance_group":
            _follow_groups(variant, config)
        elif name == "parameters":
            for key in set(variant.parameters) | set(config.parameters):
                if key in _OF_DEVICE:
                    continue
                if key in config.parameters:
                    variant.parameters[key].CopyFrom(config.parameters[key])
                else:
                    del variant.parameters[key]
        else:
            variant.ClearField(name)
            variant.MergeFrom(_only(config, name))


def _follow_groups(variant: ModelConfig, config: ModelConfig) -> None:
    """Counts and the rest of each group; kind and GPUs stay the device's own."""
    kind = variant.instance_group[0].kind if len(variant.instance_group) else 0
    gpus = list(variant.instance_group[0].gpus) if len(variant.instance_group) else []
    variant.ClearField("instance_group")
    for group in config.instance_group:
        copied = variant.instance_group.add()
        copied.CopyFrom(group)
        copied.kind = kind
        del copied.gpus[:]
        copied.gpus.extend(gpus)


def _only(config: ModelConfig, name: str) -> ModelConfig:
    """A configuration with one field of `config`."""
    single = type(config)()
    single.CopyFrom(config)
    for descriptor, _ in config.ListFields():
        if descriptor.name != name:
            single.ClearField(descriptor.name)
    return single
