"""A graph in QDQ form as a network that trains: `QuantisedNetwork`, and its tensors back into the same graph.

The graph is that of `rtool export --int8`, so what trains and what is exported place the same quantisers. It is
converted to torch; each pair of quantisers around an activation becomes a `FakeActivation`, and each quantised weight
a `FakeWeight` that begins at the float32 weight. Weights, biases of quantised layers and step sizes learn; zero points
and everything else stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ....converters.lowering.conversion import onnx_to_torch
from ....converters.lowering.exact.quantisation import dequantize, quantize
from ....converters.records.node_facts import facts_of
from ....converters.records.record import require_record
from ....errors import InputError
from .fake_quantisation import FakeActivation, FakeWeight

__all__ = ["QuantisedNetwork", "quantised_network"]


@dataclass(frozen=True)
class _Layer:
    """A quantised weight: the names of its levels and scale in the graph, whether it is transposed there, values."""

    levels: str
    scale: str
    transposed: bool
    fake: FakeWeight


class FakeBias(nn.Module):
    """A bias in float32 that moves in units of its layer's largest one."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros_like(bias))
        self.register_buffer("first", bias.detach().clone())
        self.unit = max(float(bias.detach().abs().max()), 1e-6)

    first: Tensor

    def forward(self) -> Tensor:
        """The bias."""
        return self.first + self.unit * self.change


class _Computed(nn.Module):
    """A parametrization that ignores the stored tensor."""

    def __init__(self, source: FakeWeight | FakeBias) -> None:
        super().__init__()
        self.source = source

    def forward(self, _: Tensor) -> Tensor:
        """The tensor that the source computes."""
        found: Tensor = self.source()
        return found


@dataclass(frozen=True)
class QuantisedNetwork:
    """`module` computes in float32 what the graph computes in int8."""

    module: fx.GraphModule
    graph: onnx.ModelProto
    layers: tuple[_Layer, ...]
    biases: dict[str, FakeBias]
    """By name in the graph."""
    activations: dict[str, FakeActivation]
    """By the name of the scale in the graph."""

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """What learns: changes of weights and biases, and growths of step sizes."""
        changes = [layer.fake.change for layer in self.layers]
        changes += [bias.change for bias in self.biases.values()]
        return changes, [activation.growth for activation in self.activations.values()]

    @torch.no_grad()
    def export(self) -> onnx.ModelProto:
        """The graph with the present levels, step sizes and biases."""
        tensors: dict[str, NDArray[Any]] = {name: bias().numpy() for name, bias in self.biases.items()}
        for name, activation in self.activations.items():
            tensors[name] = np.array(activation.scale, np.float32)
        for layer in self.layers:
            array = layer.fake.levels().numpy().astype(np.int8)
            tensors[layer.levels] = array.T if layer.transposed else array
            tensors[layer.scale] = layer.fake.step.numpy().reshape(-1)
        written = onnx.ModelProto()
        written.CopyFrom(self.graph)
        stored = {tensor.name: tensor for tensor in written.graph.initializer}
        for name, array in tensors.items():
            shaped = np.ascontiguousarray(array).reshape(tuple(stored[name].dims))
            stored[name].CopyFrom(numpy_helper.from_array(shaped, name))
        return written


def quantised_network(graph: onnx.ModelProto, float32: onnx.ModelProto) -> QuantisedNetwork:
    """Make a graph in QDQ form trainable.

    Args:
        graph: As `Quantiser.quantise(compact=False)` gives it.
        float32: The model it was quantised from, with its weights by name.

    Raises:
        InputError: a weight is quantised in a way that this module does not know.
    """
    module = onnx_to_torch(graph)
    module.requires_grad_(False)
    activations = _fake_activations(module)
    layers, biases = _fake_weights(module, graph, {tensor.name: tensor for tensor in float32.graph.initializer})
    module.recompile()
    return QuantisedNetwork(module.eval(), graph, layers, biases, activations)


def _fake_activations(module: fx.GraphModule) -> dict[str, FakeActivation]:
    """Replace quantize and dequantize with one module per scale; by the name of the scale in the file."""
    made: dict[str, FakeActivation] = {}
    sources = require_record(module).parameters
    for node in list(module.graph.nodes):
        if node.target is not dequantize or node.args[0].target is not quantize:
            continue
        rounded = node.args[0]
        values, scale, zero = rounded.args[:3]
        name = sources[str(scale.target)].value
        own = f"fake_{str(scale.target).replace('.', '_')}"
        if name not in made:
            step, level = (float(_constant(module, each)) for each in (scale, zero))
            made[name] = FakeActivation(step, int(level))
            module.add_submodule(own, made[name])
        with module.graph.inserting_before(node):
            fake = module.graph.call_module(own, (values,))
        node.replace_all_uses_with(fake)
        module.graph.erase_node(node)
        if not rounded.users:
            module.graph.erase_node(rounded)
    return made


def _constant(module: fx.GraphModule, node: fx.Node) -> Tensor:
    owner: Any = module
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    found: Tensor = owner
    return found


def _fake_weights(
    module: fx.GraphModule, graph: onnx.ModelProto, weights: dict[str, onnx.TensorProto]
) -> tuple[tuple[_Layer, ...], dict[str, FakeBias]]:
    nodes = {node.name: node for node in graph.graph.node}
    makers = {name: node for node in graph.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    layers: dict[str, _Layer] = {}
    shifts: dict[str, FakeBias] = {}
    done: set[int] = set()
    for step in module.graph.nodes:
        if step.op != "call_module" or not hasattr(layer := module.get_submodule(str(step.target)), "weight"):
            continue
        node = nodes.get(facts_of(step).onnx_node)
        scaled = makers.get(node.input[1]) if node is not None and len(node.input) > 1 else None
        if node is None or scaled is None or scaled.op_type != "DequantizeLinear" or scaled.input[0] not in stored:
            continue
        if id(layer) in done:  # a layer that is called several times, as the channel gate of OSNet
            continue
        done.add(id(layer))
        name = scaled.input[0]
        if name not in layers:
            weight = weights.get(name.removesuffix("_quantized"))
            if weight is None:
                raise InputError(f"int8: the float32 weight of {name!r} is unknown; quantise without training")
            layers[name] = _fake_layer(layer, weight, stored[scaled.input[1]], scaled)
        elif not _is_same(layer, layers[name].fake.first):
            raise InputError(f"int8: weight {name!r} is read in two ways, which cannot be trained; use --int8 alone")
        parametrize.register_parametrization(layer, "weight", _Computed(layers[name].fake), unsafe=True)
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in stored else None
        if bias is not None and isinstance(layer.bias, Tensor):
            shift = shifts.setdefault(bias, FakeBias(layer.bias))
            parametrize.register_parametrization(layer, "bias", _Computed(shift), unsafe=True)
    return tuple(layers.values()), shifts


def _fake_layer(layer: nn.Module, weight: onnx.TensorProto, scale: onnx.TensorProto, scaled: onnx.NodeProto) -> _Layer:
    """The weight of a layer before it was quantised, with channels first."""
    array = torch.from_numpy(numpy_helper.to_array(weight).copy())
    transposed = not _is_same(layer, array)
    if transposed and array.ndim == 2:
        array = array.t().contiguous()
    if not _is_same(layer, array) or list(scale.dims) != [len(array)]:
        raise InputError(f"int8: weight {weight.name!r} is quantised in a way that cannot be trained; use --int8 alone")
    return _Layer(scaled.input[0], scaled.input[1], transposed, FakeWeight(array))


def _is_same(layer: nn.Module, weight: Tensor) -> bool:
    own: Any = layer
    return own.weight.shape == weight.shape and _close(own.weight, weight)


def _close(rounded: Tensor, weight: Tensor) -> bool:
    """Whether a tensor is a weight rounded to 127 levels."""
    return bool((rounded - weight).abs().max() <= weight.abs().max() / 100)
