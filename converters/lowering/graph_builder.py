"""Builds the fx graph and the module tree of a conversion: nodes, modules with their weights, shared parameters.

Every weight of the file becomes one `nn.Parameter`; a second use of the same weight gets the same object. Where the
exporter merged weights only because their values were equal (an Identity between them, or dynamo metadata that
names another parameter) each use gets its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx, nn

from ..passes.constants.constant_folding import source_of_constant
from ..records.node_facts import NodeFacts, set_facts
from ..records.record import ParameterSource, Transform
from ..records.value_names import is_generated, is_original
from .names import (
    classes_of,
    neighbouring_path,
    parameter_path,
    safe_path,
    scope_of,
    tells_scope,
)
from .values import torch_tensor

__all__ = ["GraphBuilder", "Weight"]

_FX_NODE = "pkg.torch.onnx.fx_node"
FUSED_KEY = "rtool.fused_from"
_REWRITE_RULE = "pkg.onnxscript.rewriter.rule_name"


class Weight:
    """One use of a constant as a parameter or buffer: which value, and how the tensor is made from it."""

    def __init__(self, value: ir.Value, transform: Transform = "identity", *, shape: Sequence[int] | None = None):
        self.value = value
        self.transform: Transform = transform
        self.shape = None if shape is None else tuple(shape)

    @property
    def source(self) -> ParameterSource:
        """The source value and transform of the finished tensor, with transforms of folded nodes composed."""
        origin = source_of_constant(self.value)
        if self.transform == "identity":
            return origin
        if origin.transform == "identity":
            return ParameterSource(origin.value, self.transform)
        if origin.transform == self.transform == "transpose":
            return ParameterSource(origin.value)
        if origin.transform == self.transform == "reshape":
            return ParameterSource(origin.value, "reshape")
        return ParameterSource(self.value.name or "", self.transform)

    def tensor(self) -> torch.Tensor:
        """The transformed tensor, contiguous, with memory of its own."""
        assert self.value.const_value is not None
        tensor = torch_tensor(self.value.const_value)
        if self.transform == "transpose":
            return tensor.t().contiguous()
        if self.transform == "reshape":
            assert self.shape is not None
            return tensor.reshape(self.shape)
        return tensor


class GraphBuilder:
    """The growing result of one conversion."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.parameter_sources: dict[str, ParameterSource] = {}
        self.node_names: dict[str, list[str]] = {}
        self._device: fx.Node | None = None
        self.symbols: dict[str, str] = {}
        """Symbols of dimensions that were proved to be the same as another one."""
        self._parameters: dict[tuple[object, ...], nn.Parameter] = {}
        self._modules: dict[tuple[object, ...], str] = {}
        self._attributes: dict[tuple[object, ...], str] = {}
        self._names: Collection[str] | None = None

    # -- nodes ------------------------------------------------------------------------------------------------

    def call(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], source: ir.Node) -> fx.Node:
        """Append one fx node that stands for (part of) `source`."""
        # fx names a node after its target, and its code would then assign to `self`.
        node = self.graph.create_node(kind, target, args, kwargs, name="self_" if target == "self" else None)
        facts = NodeFacts(source.name or "", scope_of(source), tells_scope(source), classes_of(source))
        set_facts(node, facts)
        return node

    def device(self) -> dict[str, fx.Node]:
        """The `device=` of a tensor made from nothing: that of the first input; nothing when there is no input.

        An input with a default may be left out, and then has no device.
        """
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder" and not node.args]
        if not placeholders:
            return {}
        if self._device is None:
            with self.graph.inserting_after(placeholders[-1]):
                self._device = self.graph.call_function(getattr, (placeholders[0], "device"))
        return {"device": self._device}

    # -- modules ----------------------------------------------------------------------------------------------

    def module(
        self,
        factory: Callable[..., nn.Module],
        options: Mapping[str, Any],
        weights: Mapping[str, Weight],
        buffers: Mapping[str, Weight],
        source: ir.Node,
    ) -> str:
        """The path of a module made by `factory(**options)` on the meta device and given its weights.

        A module with the same options and the same weights is reused: the network called it twice.
        """
        owned = {name: self._owned(weight, source) for name, weight in weights.items()}
        key = (factory, _hashable(options), tuple(sorted(owned.items())), *((n, w.source) for n, w in buffers.items()))
        if owned and key in self._modules:
            path = self._modules[key]
        else:
            module = _unfilled(factory, options)
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, torch.zeros_like(buffer, device="cpu"))
            path = self._place(module, self._module_path(weights, source))
            for name, weight in weights.items():
                setattr(module, name, self._parameter(weight, owned[name]))
                self.parameter_sources[f"{path}.{name}"] = weight.source
            for name, weight in buffers.items():
                module.register_buffer(name, weight.tensor())
                self.parameter_sources[f"{path}.{name}"] = weight.source
            self._modules[key] = path
        self.node_names.setdefault(path, []).extend(source_names(source))
        return path

    def _parameter(self, weight: Weight, owner: object) -> nn.Parameter:
        key = (owner, weight.source.transform, weight.shape)
        if key not in self._parameters:
            tensor = weight.tensor()
            self._parameters[key] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        return self._parameters[key]

    def _owned(self, weight: Weight, source: ir.Node) -> tuple[str, str, str]:
        """What identifies one parameter of the original model: the value, its transform, and who owns it."""
        origin = weight.source
        return origin.value, origin.transform, _alias_owner(weight.value, source)

    def _module_path(self, weights: Mapping[str, Weight], source: ir.Node) -> str:
        """Where a module belongs: where its weights were, in the node's scope, beside its neighbours, at its name."""
        scope = scope_of(source)
        for weight in weights.values():
            found = parameter_path(source_of_constant(weight.value).value)
            if found and found[0] and not _alias_owner(weight.value, source):
                return found[0]
        if scope:
            return scope
        return neighbouring_path(source, self._known_names(source)) or source.name or source.op_type.lower()

    def _known_names(self, source: ir.Node) -> Collection[str]:
        """The names of all weights of the file."""
        if self._names is None:
            self._names = frozenset(source.graph.initializers) if source.graph is not None else frozenset()
        return self._names

    def _place(self, module: nn.Module, path: str) -> str:
        """Put `module` into the tree at `path`, or at the nearest free path after it."""
        free = self._free_path(path)
        parent, _, name = free.rpartition(".")
        self._container(parent).add_module(name, module)
        return free

    def _free_path(self, path: str) -> str:
        """`path` made safe; where it leads through a layer it stays beside it, where it is in use it is numbered."""
        wanted = self._beside_layers(safe_path(path) or "module")
        free, number = wanted, 1
        while self._is_taken(free):
            number += 1
            free = safe_path(f"{wanted}_{number}")  # `layers.2` twice: the second is m2_2
        return free

    def _beside_layers(self, path: str) -> str:
        current: Any = self.root
        parts = path.split(".")
        for index, part in enumerate(parts[:-1]):
            current = getattr(current, part, None)
            if current is None:
                return path
            if type(current) is not nn.Module:
                return ".".join([*parts[:index], safe_path("_".join(parts[index:]))])
        return path

    def _is_taken(self, path: str) -> bool:
        current: Any = self.root
        for part in path.split("."):
            if not hasattr(current, part):
                return False
            current = getattr(current, part)
        return True

    def _container(self, path: str) -> nn.Module:
        current = self.root
        for part in filter(None, path.split(".")):
            if not hasattr(current, part):
                current.add_module(part, nn.Module())
            current = getattr(current, part)
        return current

    # -- weights used directly ----------------------------------------------------------------------------------

    def attribute(self, weight: Weight, source: ir.Node, *, trainable: bool) -> fx.Node:
        """A get_attr node for a constant that no module owns: a position embedding, a scale, a table."""
        key = (self._owned(weight, source), weight.shape, trainable)
        if key not in self._attributes:
            path = self._attribute_path(weight, source, trainable)
            parent, _, name = path.rpartition(".")
            if trainable:
                self._container(parent).register_parameter(name, self._parameter(weight, key[0]))
            else:
                self._container(parent).register_buffer(name, weight.tensor())
            self._attributes[key] = path
            self.parameter_sources[path] = weight.source
        path = self._attributes[key]
        self.node_names.setdefault(path, []).extend(source_names(source))
        return self.call("get_attr", path, (), {}, source)

    def _attribute_path(self, weight: Weight, source: ir.Node, trainable: bool) -> str:
        name = source_of_constant(weight.value).value
        if not is_original(name) or _alias_owner(weight.value, source):
            scope = scope_of(source) or neighbouring_path(source, self._known_names(source)) or ""
            name = ".".join(filter(None, (scope, "weight" if trainable else "constant")))
        return self._free_path(name or "weight")


def _unfilled(factory: Callable[..., nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """`factory(**options)` on the meta device, without drawing the random numbers that nothing there would keep."""
    if not isinstance(factory, type):
        return factory(**options, device="meta")
    module: nn.Module = _without_random_start(factory)(**options, device="meta")
    module.__class__ = factory
    return module


@functools.cache
def _without_random_start(factory: type[nn.Module]) -> type[nn.Module]:
    return type(factory.__name__, (factory,), {"reset_parameters": lambda _: None})


def source_names(node: ir.Node) -> Sequence[str]:
    """Names of the source nodes that a node of the normalised graph stands for."""
    fused = node.meta.get(FUSED_KEY)
    return fused if isinstance(fused, tuple) else (node.name or "",)


def _alias_owner(value: ir.Value, source: ir.Node) -> str:
    """The scope that owns its own copy of a weight which the exporter merged with an equal one, else ""."""
    fx_node = source.metadata_props.get(_FX_NODE)
    name = value.name or ""
    if fx_node is None or not scope_of(source):
        return ""
    if is_generated(name):
        return scope_of(source)
    if "Fuse" in source.metadata_props.get(_REWRITE_RULE, ""):
        return ""  # the node names the BatchNorm that was folded into it, the weight is the layer's own
    flattened = re.escape(re.sub(r"\W", "_", name))
    return "" if re.search(rf"%[pbc]_{flattened}\b", fx_node) else scope_of(source)


def _hashable(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items()))
