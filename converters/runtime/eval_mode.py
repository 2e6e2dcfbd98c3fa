"""Running a module in eval mode without changing the caller's: modes are put back, or a twin runs in its place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluation_twin", "in_eval_mode"]


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode inside the block; afterwards every layer is in the mode it was in."""
    training = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, mode in training.items():
            layer.training = mode


def evaluation_twin(module: nn.Module, device: str | torch.device) -> nn.Module:
    """`module` in eval mode on `device`: itself where it is both already, else a copy that shares what it can.

    The copy shares every tensor that is on `device`, so it costs no memory there and follows further training.

    Raises:
        RuntimeError: `device` cannot be used here (a build of torch without CUDA raises AssertionError).
    """
    place = torch.empty(0, device=device).device
    tensors = [*module.parameters(), *module.buffers()]
    moved = [tensor for tensor in tensors if tensor.device != place]
    has_modes = "eval" not in vars(module)  # an exported program is in the mode it was exported in
    if not moved and not (has_modes and any(layer.training for layer in module.modules())):
        return module
    shared: dict[int, torch.Tensor] = {id(tensor): tensor for tensor in tensors}
    shared |= {id(tensor): _on_device(tensor, place) for tensor in moved}
    twin = copy.deepcopy(module, shared)
    for layer in twin.modules() if has_modes else ():
        layer.training = False
    return twin


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    copied = tensor.detach().to(device)
    return nn.Parameter(copied, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
