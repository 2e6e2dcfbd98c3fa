"""The feature map on the way to the embedding: `model.map`, taken in the same forward pass.

A module of a torch network is watched by a hook for as long as a pass lasts. A converted graph has nodes that are no
modules, so its code is generated once more with the node as a further output, and run on the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...converters.records.node_facts import facts_of
from ...errors import ConfigError, InputError, nearest
from .learner import embedding_of

__all__ = ["MapTap", "find_map", "graph_with_map"]

_POOLING = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._LPPoolNd,
)  # fmt: skip
_PASSING = (*_POOLING, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Identity)
"""Layers between a map and its embedding that make no map of their own."""
_PASSING_WORDS = ("pool", "mean", "dropout", "flatten", "reshape", "view", "permute", "transpose", "contiguous")
"""The same as functions and methods of a graph."""
_WAY_OUT = "name a module or node with values [N, C, h, w] as model.map, or leave out the losses that need a map"


@dataclass(frozen=True)
class MapTap:
    """Runs a backbone and gives its outputs together with one feature map."""

    backbone: nn.Module
    name: str
    """The module, or the node of a graph."""
    channels: int
    size: tuple[int, int]
    """Height and width of the map."""
    run: Callable[[Tensor], tuple[Any, Tensor]]
    """From images to the backbone's outputs and the map [N, C, h, w], in one pass."""


def find_map(backbone: nn.Module, images: Tensor, output: int, name: str | None = None) -> MapTap:
    """The feature map called `name`, or by default the input of the last pooling, Flatten or Gemm before the embedding.

    Args:
        backbone: Left in eval mode.
        images: Two normalised images, on which the sizes are measured.
        output: Which output is the embedding.
        name: A module, or the name of a node in a converted graph or in its ONNX file.

    Raises:
        ConfigError: there is no such module or node, its values are no map, the embedding does not depend on it, or the
            network has no map.
    """
    backbone.eval()
    found = _graph_nodes(backbone, images) if isinstance(backbone, fx.GraphModule) else _modules(backbone, images)
    if name is None:
        name = _default_node(found, output) if isinstance(backbone, fx.GraphModule) else _default_module(found, output)
    name = _resolved(backbone, name)
    run = _graph_run(backbone, name) if isinstance(backbone, fx.GraphModule) else _module_run(backbone, name)
    with torch.enable_grad():
        outputs, value = run(images)
        if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[0] != len(images):
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"model.map '{name}': gives {shape}, expected a feature map [N, C, h, w]; name another")
        if value.requires_grad:
            total = embedding_of(outputs, output).sum()
            if torch.autograd.grad(total, value, allow_unused=True)[0] is None:
                raise ConfigError(f"model.map '{name}': the embedding does not depend on it; name what lies before it")
    return MapTap(backbone, name, value.shape[1], (value.shape[2], value.shape[3]), run)


def _is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] * value.shape[3] > 1


def _is_tokens(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] > 1


@dataclass(frozen=True)
class _Found:
    """What was computed in a pass, in order: names, whether each only passes on, values; and the outputs."""

    names: list[str]
    passing: list[bool]
    values: list[object]
    inputs: list[tuple[str, ...]]
    """Of a graph's node: those that it reads."""
    outputs: Any


def _modules(backbone: nn.Module, images: Tensor) -> _Found:
    found = _Found([], [], [], [], None)

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def seen(module: nn.Module, _inputs: object, value: object) -> None:
            found.names.append(name)
            found.passing.append(isinstance(module, _PASSING))
            found.values.append(value)

        return seen

    hooks = [module.register_forward_hook(watch(name)) for name, module in backbone.named_modules() if name]
    try:
        with torch.enable_grad():
            outputs = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return _Found(found.names, found.passing, found.values, [], outputs)


def _default_module(found: _Found, output: int) -> str:
    """The last module that computes a map which the embedding depends on.

    Raises:
        ConfigError: there is none, or what follows works on tokens.
    """
    maps = [number for number, value in enumerate(found.values) if _is_map(value) and not found.passing[number]]
    tensors = [value for value in (found.values[number] for number in maps) if isinstance(value, Tensor)]
    tracked = [(number, value) for number, value in zip(maps, tensors, strict=True) if value.requires_grad]
    embedding = embedding_of(found.outputs, output)
    if tracked and embedding.requires_grad:
        gradients = torch.autograd.grad(embedding.sum(), [value for _, value in tracked], allow_unused=True)
        maps = [number for (number, _), gradient in zip(tracked, gradients, strict=True) if gradient is not None]
    if not maps or any(_is_tokens(value) for value in found.values[maps[-1] + 1 :]):
        raise _no_map()
    return found.names[maps[-1]]


class _Recorded(fx.Interpreter):
    """Runs a graph and keeps what its nodes compute, without their data."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, object] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n.name] = value.to("meta") if isinstance(value, Tensor) else value
        return value


def _graph_nodes(backbone: fx.GraphModule, images: Tensor) -> _Found:
    recorded = _Recorded(backbone)
    with torch.no_grad():
        outputs = recorded.run(images)
    nodes = list(backbone.graph.nodes)
    passing = [_only_passes(backbone, node) for node in nodes]
    inputs = [tuple(each.name for each in node.all_input_nodes) for node in nodes]
    values = [recorded.values[node.name] for node in nodes]
    return _Found([node.name for node in nodes], passing, values, inputs, outputs)


def _only_passes(backbone: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(backbone.get_submodule(str(node.target)), _PASSING)
    words = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    return node.op in ("call_function", "call_method") and any(word in words.lower() for word in _PASSING_WORDS)


def _default_node(found: _Found, output: int) -> str:
    """The first maps met on the way back from the embedding; one is wanted.

    Raises:
        ConfigError: there is none, or several, or the network works on tokens.
    """
    number = {name: place for place, name in enumerate(found.names)}
    ends = found.inputs[-1]
    waiting, seen, maps = [ends[min(output, len(ends) - 1)]], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = number[name]
        if _is_tokens(found.values[place]) and found.inputs[place]:
            raise _no_map()
        if _is_map(found.values[place]) and not found.passing[place] and found.inputs[place]:
            maps.add(name)
        else:
            waiting += found.inputs[place]
    if not maps:
        raise _no_map()
    if len(maps) > 1:
        several = ", ".join(sorted(maps))
        raise ConfigError(f"model.map: the embedding is made of several maps ({several}); name one of them")
    return maps.pop()


def _no_map() -> ConfigError:
    return ConfigError(f"model.map: the backbone has no feature map [N, C, h, w] before its embedding; {_WAY_OUT}")


def _resolved(backbone: nn.Module, name: str) -> str:
    """The module's name, or the node's name in the graph; a node may be named as in its ONNX file.

    Raises:
        ConfigError: there is none of that name.
    """
    if not isinstance(backbone, fx.GraphModule):
        known = [each for each, _ in backbone.named_modules() if each]
        if name not in known:
            raise ConfigError(f"model.map: no module '{name}'; {nearest(name, known)}")
        return name
    names: dict[str, str] = {}
    for node in backbone.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        names[facts_of(node).onnx_node] = node.name  # the last of several is what the ONNX node gives
        if node.op == "call_module":
            names[str(node.target)] = node.name
    names.pop("", None)
    names.update({node.name: node.name for node in backbone.graph.nodes if node.op.startswith("call")})
    if name not in names:
        raise ConfigError(f"model.map: no node or module '{name}'; {nearest(name, names)}")
    return names[name]


def _module_run(backbone: nn.Module, name: str) -> Callable[[Tensor], tuple[Any, Tensor]]:
    module = backbone.get_submodule(name)

    def run(images: Tensor) -> tuple[Any, Tensor]:
        values: list[Tensor] = []
        hook = module.register_forward_hook(lambda _module, _inputs, value: values.append(value))
        try:
            outputs = backbone(images)
        finally:
            hook.remove()
        if not values:
            raise ConfigError(f"model.map: module '{name}' is never called itself; name a layer in it")
        return outputs, values[-1]

    return run


def _graph_run(backbone: fx.GraphModule, name: str) -> Callable[[Tensor], tuple[Any, Tensor]]:
    forward = type(with_map(backbone, name)).forward
    return lambda images: forward(backbone, images)


def with_map(backbone: fx.GraphModule, name: str, output: int | None = None) -> fx.GraphModule:
    """The graph with (outputs, value of node `name`) as its output; layers and parameters are the same objects.

    With `output`, that one alone stands for the outputs.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(backbone.graph, copies)
    wanted = next(copy for node, copy in copies.items() if node.name == name)
    if output is not None and isinstance(outputs, list | tuple):
        outputs = outputs[output]
    graph.output((outputs, wanted))
    return fx.GraphModule(backbone, graph)


class _TracedTo(fx.Tracer):
    """Traces a module, and notes which node holds what the module of some name gives."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.found: fx.Node | None = None

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        value = super().call_module(m, forward, args, kwargs)
        if isinstance(value, fx.Proxy) and self.path_of_module(m) == self.name:
            self.found = value.node
        return value


def graph_with_map(tap: MapTap, output: int) -> fx.GraphModule:
    """A graph from images to (output number `output`, map), of the same layers and parameters.

    Raises:
        InputError: torch.fx cannot trace the network.
    """
    if isinstance(tap.backbone, fx.GraphModule):
        return with_map(tap.backbone, tap.name, output)
    tracer = _TracedTo(tap.name)
    try:
        graph = tracer.trace(tap.backbone)
    except Exception as error:  # tracing runs the module's own code on proxies
        raise InputError(
            f"{type(tap.backbone).__name__}: torch.fx cannot trace it ({error}), so its map is no output of a graph"
        ) from error
    if tracer.found is None:
        raise InputError(f"model.map '{tap.name}': is not in the traced graph; name a layer in it")
    return with_map(fx.GraphModule(tap.backbone, graph), tracer.found.name, output)
