"""Fold BatchNorm into a Gemm whose factors are not 1, which is lowered to `(x @ W) * alpha + c * beta`.

With s and t of the BatchNorm (see `affine`), s * (alpha * x @ W + beta * c) + t is the same product with the columns of
W multiplied by s and c replaced by c * s + t / beta; alpha and beta stay. (ONNX operator Gemm.)
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
    """The parameters of a product that gives [N, features]: paths of its weight and of its addend."""

    weight: str
    transposed: bool
    """Whether the weight is stored as [features, inputs]."""
    addend: str
    beta: float
    inner: tuple[fx.Node, ...]
    """The nodes that compute the product, without the last one."""


def find_scaled_product(module: fx.GraphModule, node: fx.Node) -> ScaledProduct | None:
    """The product whose last node is `node`; None unless it is a matrix and its constants have no other readers."""
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
    """Make the product compute `affine` of its result; False if the channels are not its features."""
    weight, addend = module.get_parameter(found.weight), module.get_parameter(found.addend)
    features = weight.shape[0 if found.transposed else 1]
    if features != len(affine.scale) or tuple(addend.shape) not in {(features,), (1, features)}:
        return False
    scale = affine.scale.view(-1, 1) if found.transposed else affine.scale
    _replace(module, found.weight, weight.double() * scale)
    _replace(module, found.addend, addend.double() * affine.scale + affine.shift / found.beta)
    return True


def _scaled(value: object) -> tuple[fx.Node | None, float]:
    """The node that is multiplied by a number, and that number; 1.0 without a multiplication."""
    if not isinstance(value, fx.Node):
        return None, 1.0
    if value.target is operator.mul and isinstance(value.args[0], fx.Node) and isinstance(value.args[1], int | float):
        return value.args[0], float(value.args[1])
    return value, 1.0


def _is_own(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a constant is a parameter with a single reader."""
    readers = sum(entry.op == "get_attr" and entry.target == node.target for entry in module.graph.nodes)
    return readers == 1 and str(node.target) in dict(module.named_parameters(remove_duplicate=False))


def _replace(module: fx.GraphModule, path: str, tensor: torch.Tensor) -> None:
    """Put a new parameter at `path`, so that other references to the old one keep its values."""
    owner, _, name = path.rpartition(".")
    old = module.get_parameter(path)
    new = nn.Parameter(tensor.to(old.dtype), requires_grad=old.requires_grad)
    setattr(module.get_submodule(owner), name, new)
