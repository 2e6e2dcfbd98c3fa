"""What classes of generated code are called: as the exporter says, as the literature calls such a block, or by role.

A block is recognised by the names of its members and what they are, so that the same block has the same name in
every file. Names of an exporter enter the text only when they are plain identifiers that hide nothing.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from ...records.node_facts import facts_of
from .blocks import Block, Call
from .growth import is_activation

__all__ = ["ClassNames"]

_IMPORTED = frozenset({"Model", "F", "List", "Tensor", "Sequence", "nn", "torch", "math", "annotations"})


class ClassNames:
    """Gives every class a name of its own."""

    def __init__(self, module: nn.Module, taken: Iterable[str] = ()) -> None:
        """`taken` are names that the file defines before the classes."""
        self.module = module
        self._taken = {*_IMPORTED, *keyword.kwlist, *keyword.softkwlist, *dir(builtins), *taken}

    def of_block(self, block: Block) -> str:
        """The name of the class for `block`."""
        return self._free(_stated(block) or self._recognised(block) or _role(block.path))

    def of_holder(self, path: str) -> str:
        """The name of a class that only holds the members of `path`."""
        return self._free(_role(path))

    def _free(self, wanted: str) -> str:
        separator = "_" if wanted[-1].isdigit() else ""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}{separator}{number}"
        self._taken.add(name)
        return name

    def _recognised(self, block: Block) -> str:
        """What such a block is called in the papers and code it comes from; "" where it is none of these."""
        container = self.module.get_submodule(block.path)
        members = dict(container.named_children())
        names = set(members)
        if names == {"layers"}:
            return self._of_layers(members["layers"])
        if names <= {"conv", "bn", "norm", "relu", "act", "prelu"} and isinstance(members.get("conv"), _ConvNd):
            return self._convolution(block, "conv")
        own = [node for node in block.nodes if node.op != "call_module"]
        operations = {str(getattr(node.target, "__name__", node.target)) for node in own}
        if names == {"fc1", "fc2"}:
            return "ChannelGate" if {"sigmoid", "mul"} <= operations else "Mlp"
        if {"conv1", "conv2"} <= names <= {"conv1", "conv2", "bn"} and _is_depthwise(members["conv2"]):
            return f"LightConv{_kernel(members['conv2'])}"
        return next((name for name, needed, allowed in _BLOCKS if needed <= names and _fits(names, allowed)), "")

    def _of_layers(self, layers: nn.Module) -> str:
        """A block of which all is in one list, as MobileFaceNet's."""
        kinds = [type(layer) for layer in layers.children()]
        if kinds and issubclass(kinds[0], _ConvNd):
            return "LinearBlock" if len(kinds) == 1 else "ConvBlock"
        return "Stage" if set(kinds) == {nn.Module} else ""

    def _convolution(self, block: Block, member: str) -> str:
        last = block.outputs[0] if len(block.outputs) == 1 else None
        is_nonlinear = last is not None and self._is_nonlinear(last)
        if _is_depthwise(self.module.get_submodule(f"{block.path}.{member}")):
            return "DepthwiseConv" if is_nonlinear else "DepthwiseConvLinear"
        return "ConvLayer" if is_nonlinear else "ConvLinear"

    def _is_nonlinear(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.module.get_submodule(str(node.target)), nn.PReLU)
        return is_activation(node)


_BATCHNORMS = r"(bn|norm)\d?"
_BLOCKS: tuple[tuple[str, frozenset[str], str], ...] = (
    ("OSBlock", frozenset({"conv1", "conv2a", "gate", "conv3"}), r"conv2[a-d]|downsample|conv2"),
    ("IBN", frozenset({"IN", "BN"}), ""),
    ("Bottleneck", frozenset({"conv1", "conv2", "conv3"}), rf"{_BATCHNORMS}|downsample|shortcut|se|prelu"),
    ("IBasicBlock", frozenset({"bn1", "conv1", "conv2", "prelu"}), rf"{_BATCHNORMS}|downsample|se"),
    ("BasicBlock", frozenset({"conv1", "conv2"}), rf"{_BATCHNORMS}|downsample|shortcut|se|prelu"),
    ("Attention", frozenset({"proj"}), r"qkv|q|k|v|linear\w*|to_\w+|softmax"),
    ("TransformerBlock", frozenset({"norm1", "norm2", "attn", "mlp"}), ".*"),
    ("ConvNeXtBlock", frozenset({"dwconv", "norm", "pwconv1", "pwconv2"}), ".*"),
    ("PatchMerging", frozenset({"norm", "reduction"}), ""),
    ("PatchEmbed", frozenset({"proj", "norm"}), ""),
)
"""Class name, members that it has, and a pattern of those it may have beside them."""


def _fits(names: set[str], allowed: str) -> bool:
    needed: frozenset[str] = next((n for _, n, a in _BLOCKS if a == allowed and n <= names), frozenset())
    return all(re.fullmatch(allowed, name) for name in names - needed)


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


def _kernel(layer: nn.Module) -> str:
    assert isinstance(layer, _ConvNd)
    return "x".join(map(str, layer.kernel_size))


def _stated(block: Block) -> str:
    """The class name that a dynamo export states for this path; "" when it states none or no usable one."""
    nodes = (node for entry in block.statements for node in (entry.nodes if isinstance(entry, Call) else [entry]))
    for node in nodes:
        name = facts_of(node).classes.get(block.path, "").strip("_")
        if name.isidentifier() and name.isascii() and not hasattr(nn, name):
            return name[:1].upper() + name[1:]  # small letters are for arguments and variables
    return ""


def _role(path: str) -> str:
    """`conv2.0.conv1` -> `Conv1`, `layer1.0` -> `Layer1Block`."""
    words = path.split(".")
    named = next((word for word in reversed(words) if not word.isdigit()), "block")
    camel = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", named, flags=re.ASCII))
    camel = camel if camel[:1].isalpha() else f"Block{camel}"
    return f"{camel}Block" if words[-1].isdigit() else camel
