"""Which parameters of a network the losses of a run depend on.

A network with a second output, such as class scores beside an embedding, has layers that no loss reaches; so has one
whose losses all see its feature map, and one whose feature map no loss trains. A single process leaves such layers
unchanged; DDP would wait for their gradients and fail. So they are made untrainable at the start. Layers before
activations that are rounded to integers are no such layers: the embedding depends on them and no gradient says how.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...converters.lowering.exact import quantisation
from ...errors import InputError
from .feature_maps import MapTap
from .learner import embedding_of
from .networks import Network, images_to_tensor

__all__ = ["hold_unreached"]


def hold_unreached(
    network: Network, output: int, tap: MapTap | None = None, *, by_embedding: bool = True, by_map: bool = False
) -> list[str]:
    """Make the parameters that no loss depends on untrainable, and return their names.

    The network is left in evaluation mode.

    Args:
        network: The network.
        output: Number of the output that is the embedding.
        tap: The feature map, where losses see one.
        by_embedding: Whether a loss learns from the embedding.
        by_map: Whether a loss trains the network through the map.

    Raises:
        InputError: the embedding depends on parameters through rounded activations alone.
    """
    module, size = network.module.eval(), network.preprocessing
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not named:
        return []
    device = next(iter(named.values())).device
    pixels = torch.zeros(2, size.height, size.width, size.channels, dtype=torch.uint8)
    images = images_to_tensor(pixels, size, device, False)
    with torch.enable_grad():
        outputs, maps = (module(images), None) if tap is None else tap.run(images)
    used: list[Tensor] = [embedding_of(outputs, output)] if by_embedding else []
    used += [maps] if by_map and maps is not None else []
    sums = [each.sum() for each in used if each.requires_grad]
    gradients: tuple[Tensor | None, ...] = (None,) * len(named)
    if sums:
        gradients = torch.autograd.grad(torch.stack(sums).sum(), list(named.values()), allow_unused=True)
    unreached = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    if by_embedding and isinstance(module, fx.GraphModule):
        _refuse_rounding(module, network.name, output, unreached)
    for name in unreached:
        named[name].requires_grad_(False)
    return unreached


def _refuse_rounding(module: fx.GraphModule, name: str, output: int, unreached: list[str]) -> None:
    (result,) = next(node for node in module.graph.nodes if node.op == "output").args
    embedding = result[output] if isinstance(result, tuple | list) and output < len(result) else result
    if not unreached or not isinstance(embedding, fx.Node):
        return
    for node in _before(embedding):
        if node.op != "call_function" or getattr(node.target, "__module__", "") != quantisation.__name__:
            continue
        owners = {str(each.target) for each in _before(node) if each.op in ("call_module", "get_attr")}
        lost = [weight for weight in unreached if weight in owners or weight.rpartition(".")[0] in owners]
        if lost:
            raise InputError(
                f"{name}: rounds activations to integers ({node.name}), and no gradient passes that: weights before "
                f"it, such as {lost[0]}, would never train; train the float32 model that this one was made from"
            )


def _before(node: fx.Node) -> set[fx.Node]:
    """The node and all that its value is computed from."""
    found, waiting = {node}, [node]
    while waiting:
        inputs = set(waiting.pop().all_input_nodes) - found
        found |= inputs
        waiting += inputs
    return found
