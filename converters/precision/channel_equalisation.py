"""Channel equalisation: even out the ranges of channels before quantisation, without changing float32 outputs.

An activation has one scale for all channels, so a channel with a small range uses few of the 256 levels. A channel of
a Conv can be divided by any positive factor if its readers multiply by the same factor: Relu, PRelu and pooling pass
factors on, and the weights of the Conv have per-channel scales. Nagel et al.: "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721 (section 4.1), with measured activation ranges as in
Xiao et al.: "SmoothQuant", ICML 2023, arXiv:2211.10438. Factors are rounded to powers of two, which scale float32
numbers exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.runners import OnnxRunner

__all__ = ["equalise_channels"]

_PASS_ON = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
"""Operators with f(a x) = a f(x) for a > 0, per channel."""
_DEAD = 1e-4
"""Share of the largest channel's range; a channel below it counts as dead and is not scaled."""
_LARGEST_EXPONENT = 12
_BATCH = 8

Array = NDArray[np.float64]


def equalise_channels(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """A copy of the float32 `model` with rescaled weights and bitwise equal outputs.

    A channel that only depthwise Convs read is scaled to the range of the others. If a Conv reads several channels, its
    scale spans them, so half of the difference (the square root of the ratio) moves into its weights.

    Args:
        model: a model with one input, whose weights are initializers.
        images: preprocessed calibration images float32 [N, ...], on which ranges are measured.
    """
    equalised = ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    pairs = list(_pairs(equalised.graph))
    ranges = _largest_magnitudes(model, [str(pair.value.name) for pair in pairs], images)
    for pair, largest in zip(pairs, ranges, strict=True):
        factors = _factors(largest, pair.readers)
        for weight in _weights(pair.writer):
            _set(weight, _array(weight) / _rows(factors, _array(weight).ndim))
        for reader in pair.readers:
            weight = _weights(reader)[0]
            _set(weight, _scaled_inputs(_array(weight), factors, _groups(reader)))
    result: onnx.ModelProto = ir.to_proto(equalised)
    return result


@dataclass(frozen=True)
class _Pair:
    """A Conv, the last value of the activations behind it, and the Convs that are its only readers."""

    writer: ir.Node
    value: ir.Value
    readers: tuple[ir.Node, ...]


def _pairs(graph: ir.Graph) -> Iterator[_Pair]:
    for writer in graph:
        if writer.op_type != "Conv" or not _owns_weights(writer):
            continue
        value = writer.outputs[0]
        while True:
            readers = tuple(value.consumers())
            if value.is_graph_output() or len(readers) != 1 or readers[0].op_type not in _PASS_ON:
                break
            if readers[0].inputs[0] is not value or len(readers[0].outputs) != 1:
                break
            value = readers[0].outputs[0]
        if value.is_graph_output() or not readers:
            continue
        if all(node.op_type == "Conv" and node.inputs[0] is value and _owns_weights(node) for node in readers):
            yield _Pair(writer, value, readers)


def _owns_weights(node: ir.Node) -> bool:
    """Whether all weights of `node` are float32 initializers without other readers."""
    weights = [value for value in node.inputs[1:] if value is not None]
    return bool(weights) and all(
        value.const_value is not None
        and value.is_initializer()
        and value.const_value.dtype == ir.DataType.FLOAT
        and len(value.uses()) == 1
        and not value.is_graph_input()
        and not value.is_graph_output()
        for value in weights
    )


def _weights(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs[1:] if value is not None]


def _groups(node: ir.Node) -> int:
    attribute = node.attributes.get("group")
    return attribute.as_int() if attribute is not None else 1


def _factors(largest: Array, readers: Sequence[ir.Node]) -> Array:
    """The divisor of each channel: powers of two with a geometric mean near 1."""
    live = largest > _DEAD * largest.max(initial=0.0)
    if not live.any():
        return np.ones_like(largest)
    wanted = np.where(live, largest, 1.0)
    dense = [node for node in readers if _array(_weights(node)[0]).shape[1] > 1]
    if dense:
        read = np.max([_magnitudes_by_input(node) for node in dense], axis=0)
        live &= read > _DEAD * read.max()
        wanted = np.sqrt(wanted / np.where(live, read, 1.0))
    exponents = np.where(live, np.log2(np.where(live, wanted, 1.0)), 0.0)
    exponents = np.where(live, np.round(exponents - exponents[live].mean()) if live.any() else 0.0, 0.0)
    factors: Array = np.exp2(np.clip(exponents, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
    return factors


def _magnitudes_by_input(node: ir.Node) -> Array:
    """The largest magnitude among the weights of each input channel, float64 [C]."""
    weight, groups = _array(_weights(node)[0]), _groups(node)
    by_group = np.abs(weight).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.asarray(by_group.max(axis=(1, 3)).reshape(-1), dtype=np.float64)


def _scaled_inputs(weight: NDArray[np.float32], factors: Array, groups: int) -> Array:
    """`weight` [O, C / groups, ...] with the weights of input channel c multiplied by factors[c]."""
    by_group = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.asarray((by_group * factors.reshape(groups, 1, weight.shape[1], 1)).reshape(weight.shape))


def _rows(factors: Array, rank: int) -> Array:
    return np.reshape(factors, (-1, *[1] * (rank - 1)))


def _array(value: ir.Value) -> NDArray[np.float32]:
    """The values of an initializer."""
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())


def _set(value: ir.Value, array: Array) -> None:
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)


def _largest_magnitudes(model: onnx.ModelProto, names: Sequence[str], images: NDArray[np.float32]) -> list[Array]:
    """Per named value [N, C, ...], the largest |x| of each channel over `images`, float64 [C]."""
    if not names:
        return []
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner = OnnxRunner(shown, name="equalisation")
    size = runner.batch or _BATCH
    largest: list[Array] = []
    for start in range(0, len(images), size):
        batch = np.resize(images[start : start + size], (size, *images.shape[1:]))
        seen = [np.abs(array).max(axis=(0, *range(2, array.ndim))).astype(np.float64) for array in runner.run(batch)]
        largest = [np.maximum(old, new) for old, new in zip(largest, seen, strict=True)] if largest else seen
    return largest
