"""The hand-written counterpart of a fused file: the original network with folded BatchNorms, and the file.

The exporter folds a BatchNorm into the convolution before it and nothing else, and the hand-written network does the
same: the convolution gets the scaled weight and a bias, the BatchNorm is removed. A BatchNorm that stays in the file
(before a convolution, or behind a Linear) stays here as well. ReLUs are in place where those of the original are.
"""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import Tensor, fx, nn

from ...converters.zoo.registry import architecture_preprocessing, build_architecture

__all__ = ["exported", "fold_by_hand", "images_for", "randomised"]

_SEED = 0


def images_for(network: str, batch: int) -> Tensor:
    """Seeded images, float32 [batch, 3, H, W], of the network's input size."""
    size = architecture_preprocessing(network)
    return torch.randn(batch, 3, size.height, size.width, generator=torch.Generator().manual_seed(_SEED))


def randomised(network: str) -> nn.Module:
    """A network of the zoo in eval mode, with weights that all differ and BatchNorm statistics of its own features."""
    torch.manual_seed(_SEED)
    module = build_architecture(network).requires_grad_(True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * parameter.std(correction=0).clamp_min(0.1) * torch.randn_like(parameter))
        images = images_for(network, 4)
        for _ in range(3):
            module.train()(images)
    return module.eval()


def exported(module: nn.Module, images: Tensor, *, opset: int = 17) -> onnx.ModelProto:
    """Export with TorchScript in eval mode: BatchNorms fused into convolutions, dynamic batch."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (images[:2],),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_axes={"images": {0: "batch"}, "embedding": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())


def fold_by_hand(module: nn.Module) -> nn.Module:
    """Fold, in place, every BatchNorm2d that follows a convolution in the order of the forward pass."""
    traced = fx.symbolic_trace(module)
    layers = dict(module.named_modules())
    for node in traced.graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        convolution, norm = layers[str(before.target)], layers[str(node.target)]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            _fold(convolution, norm)
            _remove(module, layers, str(node.target))
    return module


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Scale weight and bias to gamma (W x + b - mean) / sqrt(var + eps) + beta, in float64."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    with torch.no_grad():
        scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
        bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias.double()
        weight = convolution.weight.double() * scale.reshape(-1, 1, 1, 1)
        convolution.weight.copy_(weight)
        convolution.bias = nn.Parameter((scale * (bias - mean.double()) + norm.bias.double()).float())


def _remove(module: nn.Module, layers: dict[str, nn.Module], path: str) -> None:
    """Remove the layer from a Sequential; where `forward` names it, replace it by the identity."""
    parent, _, name = path.rpartition(".")
    owner = layers[parent] if parent else module
    if isinstance(owner, nn.Sequential):
        del owner._modules[name]
    else:
        setattr(owner, name, nn.Identity())
