"""A Gemm whose factors are not 1, as it is lowered: `(x @ W) * alpha + c * beta`. It can absorb a BatchNorm behind it.

With s and t of the BatchNorm, s * (alpha * x @ W + beta * c) + t has the columns of W times s, and c * s + t / beta in
place of c; alpha and beta stay. (ONNX operator Gemm; `affine` has the rest of the arithmetic.)
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

from ..records.node_facts import facts_of
from .affine import ChannelAffine

__all__ = ["ScaledProduct", "absorb_into_product", "find_scaled_product"]


@dataclass(frozen=True)
class ScaledProduct:
    """Paths of the weight and of the addend, in a product whose result [N, features] is that of one node."""

    weight: str
    transposed: bool
    """Whether the weight is [features, inputs]."""
    addend: str
    beta: float
    inner: tuple[fx.Node, ...]
    """The nodes that compute it, the last one excepted."""


def find_scaled_product(module: fx.GraphModule, node: fx.Node) -> ScaledProduct | None:
    """The product that `node` adds to a constant; both constants are read here only, and the result is a matrix."""
    if node.target is not operator.add or facts_of(node).rank != 2:
        return None
    product, _ = _scaled(node.args[0])
    constant, beta = _scaled(node.args[1])
    if product is None or product.target is not torch.matmul or constant is None or constant.op != "get_attr":
        return None
    right = product.args[1]
    transposed = isinstance(right, fx.Node) and right.target is torch.t
    weight = right.args[0] if transposed and isinstance(right, fx.Node) else right
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or beta == 0:
        return None
    inner = {product, constant, weight, *(entry for entry in (right, *node.args) if isinstance(entry, fx.Node))}
    constants = (weight, constant)
    if any(len(entry.users) != 1 for entry in inner) or not all(_is_own(module, entry) for entry in constants):
        return None
    return ScaledProduct(str(weight.target), transposed, str(constant.target), beta, tuple(inner))


@torch.no_grad()
def absorb_into_product(module: fx.GraphModule, found: ScaledProduct, affine: ChannelAffine) -> bool:
    """Make the product compute `affine` of what it did; False where the channels are not its features."""
    weight, addend = module.get_parameter(found.weight), module.get_parameter(found.addend)
    features = weight.shape[0 if found.transposed else 1]
    if features != len(affine.scale) or tuple(addend.shape) not in {(features,), (1, features)}:
        return False
    scale = affine.scale.view(-1, 1) if found.transposed else affine.scale
    _replace(module, found.weight, weight.double() * scale)
    _replace(module, found.addend, addend.double() * affine.scale + affine.shift / found.beta)
    return True


def _scaled(value: object) -> tuple[fx.Node | None, float]:
    """The node behind a multiplication by a number, and that number."""
    if not isinstance(value, fx.Node):
        return None, 1.0
    if value.target is operator.mul and isinstance(value.args[0], fx.Node) and isinstance(value.args[1], int | float):
        return value.args[0], float(value.args[1])
    return value, 1.0


def _is_own(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a constant is a parameter that is read here only."""
    readers = sum(entry.op == "get_attr" and entry.target == node.target for entry in module.graph.nodes)
    return readers == 1 and str(node.target) in dict(module.named_parameters(remove_duplicate=False))


def _replace(module: fx.GraphModule, path: str, tensor: torch.Tensor) -> None:
    """A new parameter at `path`, so that another holder of the old one keeps its values."""
    owner, _, name = path.rpartition(".")
    old = module.get_parameter(path)
    new = nn.Parameter(tensor.to(old.dtype), requires_grad=old.requires_grad)
    setattr(module.get_submodule(owner), name, new)
