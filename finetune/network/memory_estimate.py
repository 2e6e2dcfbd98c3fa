"""An estimate of the memory that a step needs on each process: weights, gradients, states and activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.config import FinetuneConfig, PartialFCLoss
from .checkpointing import Checkpointed
from .networks import Network, images_to_tensor

__all__ = ["estimate_memory"]

_FLOAT = 4
_STATES = {"sgd": 1, "adamw": 2, "adam": 2, "amsgrad": 3, "rmsprop": 2}
_PROBES = (2, 4)
"""Batch sizes at which activations are measured; the difference gives the bytes per image."""


def estimate_memory(
    config: FinetuneConfig,
    network: Network,
    head_parameters: int,
    *,
    identities: int,
    processes: int,
    autocast: torch.dtype | None,
) -> int:
    """Bytes that one process needs for a step, without the data.

    Args:
        config: The run.
        network: Its network, on the CPU and in training mode.
        head_parameters: Number of parameters of the heads that every process has, without PartialFC.
        identities: Number of classes, over which PartialFC is sharded.
        processes: Number of processes.
        autocast: The dtype in which the backbone computes; None for float32.
    """
    copies = 2 + _STATES[config.optimizer.kind] + (1 if config.optimizer.ema else 0)
    weights = _FLOAT * copies * (sum(p.numel() for p in network.module.parameters()) + head_parameters)
    few, more = (_activation_bytes(config, network, images, autocast) for images in _PROBES)
    per_image = (more - few) / (_PROBES[1] - _PROBES[0])
    activations = few + per_image * (config.data.batch - _PROBES[0])
    shards = sum(
        _shard_bytes(loss, network.dimension, identities, processes, config)
        for loss in config.losses
        if isinstance(loss, PartialFCLoss)
    )
    return int(weights + max(few, activations) + shards)


def _shard_bytes(loss: PartialFCLoss, dimension: int, identities: int, processes: int, config: FinetuneConfig) -> int:
    """Bytes of one shard of PartialFC.

    All rows and their optimizer's state; of the rows that a step uses a copy, its unit vectors and two gradients; four
    arrays of the size of the logits, which are of the embeddings of all processes.
    """
    rows = math.ceil(identities / processes)
    used = math.ceil(loss.rate * rows)
    kept = (1 + _STATES[config.optimizer.kind]) * rows
    return _FLOAT * (kept * dimension + 4 * used * dimension + 4 * used * config.data.batch * processes)


def _activation_bytes(config: FinetuneConfig, network: Network, images: int, autocast: torch.dtype | None) -> int:
    """Bytes that autograd keeps for the backward pass of `images` images, without the parameters."""
    own = {parameter.data_ptr() for parameter in network.module.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    def same(value: Any) -> Any:
        return value

    size = network.preprocessing
    pixels = torch.zeros(images, size.height, size.width, size.channels, dtype=torch.uint8)
    inputs = images_to_tensor(pixels, size, torch.device("cpu"), config.model.channels_last)
    reduced = torch.autocast("cpu", dtype=autocast, enabled=autocast is not None)
    with torch.autograd.graph.saved_tensors_hooks(count, same), reduced:
        if not config.model.gradient_checkpointing:
            network.module(inputs)
            return sum(kept.values())
        return _checkpointed_bytes(Checkpointed(network.module), inputs, kept)


def _checkpointed_bytes(backbone: Checkpointed, inputs: Tensor, kept: Mapping[int, int]) -> int:
    """What is kept with gradient checkpointing: the inputs of all parts, the rest, and all of the largest part.

    The parts are run as they are; `kept` grows by what autograd keeps for them.
    """
    before, inside, borders = [0], [0], [0]

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        before[0] = sum(kept.values())
        borders[0] += sum(each.numel() * each.element_size() for each in arguments if isinstance(each, Tensor))

    def leave(*_: Any) -> None:
        inside.append(sum(kept.values()) - before[0])

    hooks = [part.register_forward_pre_hook(enter) for part in backbone.parts]
    hooks += [part.register_forward_hook(leave) for part in backbone.parts]
    try:
        backbone.whole(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(kept.values()) - sum(inside) + borders[0] + max(inside)
