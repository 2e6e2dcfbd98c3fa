"""Which parameters of a network the chosen output depends on.

A network with a second output, such as class scores beside an embedding, has layers that no loss reaches. A single
process leaves them unchanged; DDP would wait for their gradients and fail. So they are made untrainable at the start.
"""

from __future__ import annotations

import torch

from .learner import embedding_of
from .networks import Network, images_to_tensor

__all__ = ["hold_unreached"]


def hold_unreached(network: Network, output: int) -> list[str]:
    """Make the parameters that output number `output` does not depend on untrainable, and return their names.

    The network is left in evaluation mode.
    """
    module, size = network.module.eval(), network.preprocessing
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not named:
        return []
    device = next(iter(named.values())).device
    pixels = torch.zeros(2, size.height, size.width, size.channels, dtype=torch.uint8)
    with torch.enable_grad():
        embeddings = embedding_of(module(images_to_tensor(pixels, size, device, False)), output)
    if not embeddings.requires_grad:
        gradients: tuple[torch.Tensor | None, ...] = (None,) * len(named)
    else:
        gradients = torch.autograd.grad(embeddings.sum(), list(named.values()), allow_unused=True)
    unreached = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    for name in unreached:
        named[name].requires_grad_(False)
    return unreached
