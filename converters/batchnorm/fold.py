"""Fold BatchNorm into the Conv, ConvTranspose or Linear beside it, exactly, or report why it is kept.

Works in place on a `torch.fx.GraphModule` in eval mode; the arithmetic is in `affine` (Jacob et al., arXiv:1712.05877,
section 3.2).

1. A BatchNorm is folded into the layer before it (or a Gemm with factors, see `scaled_product`), else into the layer
   behind it.
2. It is kept where that would change the function: in training mode, without running statistics, called twice, with
   hooks or parametrized weights, where the value between BatchNorm and layer has other readers, or where its channels
   are not those of the layer.
3. In front of a layer with zero padding it is kept, because a folded shift would change the borders: the
   pre-activation BatchNorms of iResNet. With `padded` it is folded and leaves an offset, see `channel_offset`.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from ..records.node_facts import facts_of
from ..records.record import record_of, require_graph
from .affine import ChannelAffine, Layer, absorb_after, absorb_before, affine_of, output_channels
from .channel_offset import ChannelOffset
from .scaled_product import ScaledProduct, absorb_into_product, find_scaled_product

__all__ = ["FoldReport", "FoldedBatchNorm", "KeptBatchNorm", "Place", "fold_batchnorm"]

Place = Literal["behind", "before", "before, leaving an offset"]
"""The position of a folded BatchNorm relative to the layer that absorbed it."""

_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Modules that do nothing in eval mode."""


_LARGEST_OFFSET = 1e20
"""A larger offset means a scale so small that scaled weights lose digits near float32's smallest numbers."""


@dataclass(frozen=True)
class FoldedBatchNorm:
    """`batchnorm` was absorbed by the layer `into`; both are module paths."""

    batchnorm: str
    into: str
    place: Place = "behind"


@dataclass(frozen=True)
class KeptBatchNorm:
    """`batchnorm` (a module path) is kept, because of `reason`."""

    batchnorm: str
    reason: str


@dataclass(frozen=True)
class FoldReport:
    """The result for every BatchNorm that was examined, in graph order."""

    folded: tuple[FoldedBatchNorm, ...]
    kept: tuple[KeptBatchNorm, ...]


class _KeepError(Exception):
    """Why a BatchNorm is kept; caught in this module."""


def fold_batchnorm(module: fx.GraphModule, *, only: Collection[str] | None = None, padded: bool = False) -> FoldReport:
    """Fold the BatchNorms of `module` in place, and report those that are kept.

    The function of the module in eval mode is unchanged up to one rounding of each weight and offset.

    Args:
        module: a traced or converted network in eval mode.
        only: paths of the BatchNorms to fold; all by default.
        padded: whether to fold a BatchNorm before a zero-padded layer too, leaving a `ChannelOffset` at its path.

    Raises:
        InputError: `module` is not a `torch.fx.GraphModule`.

    Examples:
        >>> module = rtool.converters.onnx_to_torch("model.onnx")
        >>> _ = rtool.converters.restore_batchnorm(module, [torch.rand(128, 3, 16, 8)])
        >>> [(entry.batchnorm, entry.into) for entry in rtool.converters.fold_batchnorm(module).folded]
        [('bn', 'conv')]
    """
    require_graph(module)
    folded: list[FoldedBatchNorm] = []
    kept: list[KeptBatchNorm] = []
    for node in list(module.graph.nodes):
        if node.op != "call_module" or not isinstance(module.get_submodule(node.target), _BatchNorm):
            continue
        path = str(node.target)
        if only is not None and path not in only:
            continue
        try:
            folded.append(_fold(module, node, padded=padded))
        except _KeepError as reason:
            kept.append(KeptBatchNorm(path, str(reason)))
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()
    _forget_restored(module, {entry.batchnorm for entry in folded})
    return FoldReport(tuple(folded), tuple(kept))


def _forget_restored(module: fx.GraphModule, folded: set[str]) -> None:
    record = record_of(module)
    if record is not None:
        record.restored = tuple(entry for entry in record.restored if entry.module not in folded)


def _fold(module: fx.GraphModule, node: fx.Node, *, padded: bool) -> FoldedBatchNorm:
    """Fold one BatchNorm and remove its node."""
    _check_batchnorm(module, node)
    source = _skip_back(module, node.all_input_nodes[0])
    came_from = _describe(module, source)
    product = find_scaled_product(module, source)
    if product is not None:
        return _fold_into_product(module, source, node, product)
    if _layer(module, source) is None:
        return _fold_ahead(module, node, came_from=came_from, padded=padded)
    try:
        return _fold_behind(module, source, node)
    except _KeepError as reason:
        try:
            return _fold_ahead(module, node, came_from=came_from, padded=padded)
        except _KeepError:
            raise reason from None


def _check_own_weights(module: fx.GraphModule, node: fx.Node) -> None:
    """Raise where something else than the graph reads the weights or the output of a layer that folding changes."""
    path, layer = str(node.target), module.get_submodule(str(node.target))
    if _has_hooks(layer):
        raise _KeepError(f"{path!r} has a hook, which reads its input or output")
    if is_parametrized(layer):
        raise _KeepError(f"the weights of {path!r} are computed by a parametrization")
    names = _names(module, layer)
    for other in module.graph.nodes:
        if other.op == "get_attr" and str(other.target).rpartition(".")[0] in names:
            raise _KeepError(f"{str(other.target)!r} is also read outside its layer")


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _check_batchnorm(module: fx.GraphModule, node: fx.Node) -> None:
    batchnorm = module.get_submodule(str(node.target))
    assert isinstance(batchnorm, _BatchNorm)
    if batchnorm.training:
        raise _KeepError("it is in training mode; call eval() first")
    if batchnorm.running_mean is None or batchnorm.running_var is None:
        raise _KeepError("it has no running statistics and normalises each batch by itself")
    if _calls(module, node) > 1:
        raise _KeepError("it is called more than once")
    _check_own_weights(module, node)


def _fold_behind(module: fx.GraphModule, source: fx.Node, node: fx.Node) -> FoldedBatchNorm:
    layer = _layer(module, source)
    assert layer is not None
    path = str(source.target)
    step = source
    while step is not node:
        step = _only_user(step, f"the output of {path!r}")
    if _calls(module, source) > 1:
        raise _KeepError(f"{path!r} is called more than once")
    _check_own_weights(module, source)
    batchnorm = _batchnorm(module, node)
    if output_channels(layer) != batchnorm.num_features:
        raise _KeepError(f"it does not normalise the output channels of {path!r}")
    if isinstance(layer, nn.Linear) and not _is_matrix(module, source, node):
        raise _KeepError(f"{path!r} is not known to write a matrix, so axis 1 may not be its features")
    absorb_after(layer, affine_of(batchnorm))
    _drop(module, node)
    return FoldedBatchNorm(str(node.target), path)


def _fold_into_product(
    module: fx.GraphModule, source: fx.Node, node: fx.Node, product: ScaledProduct
) -> FoldedBatchNorm:
    step = source
    while step is not node:
        step = _only_user(step, f"the output of {product.weight!r}")
    if not absorb_into_product(module, product, affine_of(_batchnorm(module, node))):
        raise _KeepError(f"it does not normalise the features of {product.weight!r}")
    _drop(module, node)
    return FoldedBatchNorm(str(node.target), product.weight)


def _fold_ahead(module: fx.GraphModule, node: fx.Node, *, came_from: str, padded: bool) -> FoldedBatchNorm:
    """Fold a BatchNorm into the layer behind it, also through a flattening."""
    user, flattened = _only_user(node, "its output"), False
    while _is_transparent(module, user) or _flattens(module, user):
        flattened |= _flattens(module, user)
        user = _only_user(user, f"the output of {user.name!r}")
    layer = _layer(module, user)
    if layer is None:
        raise _KeepError(f"it stands between {came_from} and {_describe(module, user)}, neither Conv nor Linear")
    path = str(user.target)
    affine = affine_of(_batchnorm(module, node))
    if _calls(module, user) > 1:
        raise _KeepError(f"{path!r} is called more than once")
    _check_own_weights(module, user)
    if isinstance(layer, _ConvNd):
        if flattened or layer.in_channels != len(affine.scale):
            raise _KeepError(f"its channels are not the input channels of {path!r}")
        if _pads(layer) and bool((affine.shift != 0).any()):
            if not padded:
                raise _KeepError(
                    f"{path!r} pads with zeros, which a folded shift would change at the borders; "
                    "--fold-padded folds it and leaves an offset"
                )
            return _fold_into_padded(module, node, layer, path, affine)
    elif not flattened and not _is_matrix(module, user, node):
        raise _KeepError(f"{path!r} is not known to read a matrix, so axis 1 may not be its features")
    elif layer.in_features % len(affine.scale):
        raise _KeepError(f"its channels do not divide the input features of {path!r}")
    absorb_before(layer, affine)
    _drop(module, node)
    return FoldedBatchNorm(str(node.target), path, "before")


def _fold_into_padded(
    module: fx.GraphModule, node: fx.Node, layer: _ConvNd, path: str, affine: ChannelAffine
) -> FoldedBatchNorm:
    """Scale the layer's weights, and replace the BatchNorm by the offset that it maps to zero."""
    gone = (affine.scale == 0) & (affine.shift != 0)
    if bool(gone.any()):
        raise _KeepError(
            f"{path!r} pads with zeros, and its gamma is 0 in channel {int(gone.nonzero()[0])}: no input value gives 0"
        )
    exact = torch.where(affine.shift == 0, 0.0, -affine.shift / affine.scale)
    offset = exact.to(layer.weight.dtype)
    far = ~(offset.abs() <= _LARGEST_OFFSET)
    if bool(far.any()):
        channel = int(far.nonzero()[0])
        raise _KeepError(f"{path!r} pads with zeros, and its gamma is too near 0 in channel {channel}")
    absorb_before(layer, ChannelAffine(affine.scale, torch.zeros_like(affine.shift)))
    module.set_submodule(str(node.target), ChannelOffset(offset, axes=layer.weight.ndim - 2))
    return FoldedBatchNorm(str(node.target), path, "before, leaving an offset")


def _pads(layer: _ConvNd) -> bool:
    """Whether some outputs read fewer inputs than others, so that a shift of the input is not constant behind."""
    if isinstance(layer, _ConvTransposeNd):
        # How many inputs an output position sums depends on its phase and its distance to the border.
        return any(size > 1 for size in (*layer.kernel_size, *layer.stride)) or any(layer.padding)
    if isinstance(layer.padding, str):
        return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)
    return layer.padding_mode == "zeros" and any(layer.padding)


def _drop(module: fx.GraphModule, node: fx.Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])
    module.graph.erase_node(node)


def _batchnorm(module: fx.GraphModule, node: fx.Node) -> _BatchNorm:
    batchnorm = module.get_submodule(str(node.target))
    assert isinstance(batchnorm, _BatchNorm)
    return batchnorm


def _layer(module: fx.GraphModule, node: fx.Node) -> Layer | None:
    if node.op != "call_module":
        return None
    layer = module.get_submodule(str(node.target))
    return layer if isinstance(layer, _ConvNd | nn.Linear) else None


def _calls(module: fx.GraphModule, node: fx.Node) -> int:
    """How often the module object that `node` calls is called, under any name."""
    names = _names(module, module.get_submodule(str(node.target)))
    return sum(other.op == "call_module" and other.target in names for other in module.graph.nodes)


def _names(module: nn.Module, layer: nn.Module) -> set[str]:
    """Every path of the module object `layer`."""
    return {name for name, owner in module.named_modules(remove_duplicate=False) if owner is layer}


def _only_user(node: fx.Node, what: str) -> fx.Node:
    users = list(node.users)
    if any(user.op == "output" for user in users):
        raise _KeepError(f"{what} is an output of the graph")
    if len(users) != 1:
        raise _KeepError(f"{what} has {len(users)} consumers")
    return users[0]


def _skip_back(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    while _is_transparent(module, node):
        node = node.all_input_nodes[0]
    return node


def _is_transparent(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    layer = module.get_submodule(str(node.target))
    return isinstance(layer, _TRANSPARENT) and not _has_hooks(layer)


def _flattens(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is `flatten(start_dim=1)`, as module, function or method."""
    if node.op == "call_module":
        flatten = module.get_submodule(str(node.target))
        return isinstance(flatten, nn.Flatten) and (flatten.start_dim, flatten.end_dim) == (1, -1)
    if (node.op, node.target) not in {("call_function", torch.flatten), ("call_method", "flatten")}:
        return False
    arguments = dict(zip(("input", "start_dim", "end_dim"), node.args, strict=False)) | dict(node.kwargs)
    return (arguments.get("start_dim", 0), arguments.get("end_dim", -1)) == (1, -1)


def _is_matrix(module: fx.GraphModule, layer: fx.Node, batchnorm: fx.Node) -> bool:
    """Whether the Linear called by `layer` is known to read [N, features]."""
    record = record_of(module)
    if record is not None and any(entry.module == str(batchnorm.target) for entry in record.restored):
        return True  # `restore` adds one only where calibration measured matrices
    if facts_of(layer).rank == 2:
        return True  # a Gemm of the source
    source = layer.all_input_nodes[0]
    while _is_transparent(module, source):
        source = source.all_input_nodes[0]
    if _flattens(module, source):
        return True
    return _rank(source) == 2


def _rank(node: fx.Node) -> int | None:
    """The rank of a node's value; None unless shapes were propagated."""
    value = node.meta.get("tensor_meta", node.meta.get("val"))
    shape = getattr(value, "shape", None)
    return None if shape is None else len(shape)


def _describe(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target!r} ({type(module.get_submodule(str(node.target))).__name__})"
    if node.op == "call_function" and node.target is not operator.getitem:
        return f"{node.name!r} ({getattr(node.target, '__name__', node.target)})"
    return f"{node.name!r}"
