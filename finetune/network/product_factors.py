"""Which parameters are factors of a product over channels: the matrices and kernels that weight decay is meant for.

A parameter's use decides, not its rank: a scale [1, C, 1, 1] that multiplies feature maps entry by entry, a PReLU
slope, a position embedding or a bias is none, and the kernel [1, C, 1, 1] of a convolution to one channel is one. Goyal
et al., arXiv:1706.02677, section 5.3, and He et al., arXiv:1812.01187, section 3.1, decay weights of layers alone.

torch's layers say which parameter is their matrix. In a converted module the graph says it for a parameter that no
layer owns: it is a factor where a convolution or matrix product reads it, reshaped or transposed or not.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn import functional as F

from ...converters.lowering.exact import attention, quantisation, recurrent, sampling

__all__ = ["product_factors"]

_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_SEVERAL = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Layers with several matrices, whose names have `weight` in them."""
_SECOND_OPERAND = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.bilinear,
    torch.conv1d, torch.conv2d, torch.conv3d, sampling.deformable_convolution, quantisation.integer_convolution,
}  # fmt: skip
"""Functions whose second argument is the kernel or matrix, and a third one a bias or another input."""
_ANY_OPERAND = {
    torch.matmul, torch.mm, torch.bmm, torch.mv, torch.einsum, torch.tensordot, operator.matmul,
    F.scaled_dot_product_attention, attention.attention, quantisation.integer_matmul,
    recurrent.native_lstm, recurrent.native_gru, recurrent.native_rnn, recurrent.recur,
}  # fmt: skip
_AFTER_THE_FIRST = {torch.addmm, torch.baddbmm, torch.addbmm, torch.addmv}
"""Functions that add their first argument to a product of the others."""
_RESHAPING = {
    torch.reshape, torch.transpose, torch.permute, torch.flatten, torch.squeeze, torch.unsqueeze, torch.t,
    torch.movedim, torch.swapaxes, torch.cat, torch.concat, torch.stack, torch.chunk, torch.split, operator.getitem,
    "reshape", "transpose", "permute", "flatten", "squeeze", "unsqueeze", "t", "view", "contiguous", "to", "float",
    "expand", "chunk", "split", "type",
}  # fmt: skip
"""Functions and methods whose result holds the numbers of their argument, in another form."""


def product_factors(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of `module` that are factors of products over channels; each once, frozen ones too."""
    found: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for factor in (*_of_layer(child), *_of_graph(child)):
            found[id(factor)] = factor
    return list(found.values())


def _of_layer(layer: nn.Module) -> Iterator[nn.Parameter]:
    for name, parameter in layer.named_parameters(recurse=False):
        if isinstance(layer, _LAYERS):
            is_factor = name == "weight"
        elif isinstance(layer, _SEVERAL):
            is_factor = "weight" in name
        else:  # of heads and of users' modules: the name and shape that torch gives the matrix of a layer
            own = not type(layer).__module__.startswith("torch.nn.")
            is_factor = own and name == "weight" and parameter.ndim == 2
        if is_factor and not _only_in_graph(layer):
            yield parameter


def _only_in_graph(layer: nn.Module) -> bool:
    """Whether a module is the root of a graph, or holds parameters for one, and computes nothing with them itself."""
    return isinstance(layer, fx.GraphModule) or type(layer) is nn.Module


def _of_graph(module: nn.Module) -> Iterator[nn.Parameter]:
    if not isinstance(module, fx.GraphModule):
        return
    for node in module.graph.nodes:
        if node.op == "get_attr" and _is_multiplied(node):
            value = operator.attrgetter(str(node.target))(module)
            if isinstance(value, nn.Parameter):
                yield value


def _is_multiplied(node: fx.Node) -> bool:
    """Whether a product over channels reads `node`, or what only reshapes it."""
    for user in node.users:
        target = user.target
        if target in _RESHAPING:
            if _is_multiplied(user):
                return True
        elif target in _SECOND_OPERAND:
            if node in (user.kwargs.get("weight"), *user.args[1:2]):
                return True
        elif target in _AFTER_THE_FIRST:
            if node in user.args[1:]:
                return True
        elif target in _ANY_OPERAND:
            return True
    return False
