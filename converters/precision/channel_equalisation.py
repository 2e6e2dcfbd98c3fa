"""Channel equalisation: even out the ranges of channels before quantisation, without changing float32 outputs.

An activation has one scale for all channels, so a channel with a small range uses few of the 256 levels. A channel of
a Conv can be divided by any positive factor if its readers multiply by the same factor: Relu, PRelu and pooling pass
factors on, and the weights of the Conv have per-channel scales. Nagel et al.: "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721 (section 4.1), with measured activation ranges as in
Xiao et al.: "SmoothQuant", ICML 2023, arXiv:2211.10438. Factors are rounded to powers of two, which scale float32
numbers exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.runners import OnnxRunner
from .channel_groups import PASS_ON, channel_groups, number_of_groups

__all__ = ["equalise_channels"]

_SHARE, _LEARNED_SHARE = 0.5, 0.75
"""Of a difference between channels that dense readers see, the share that the activation is scaled by."""
_TINY = np.finfo(np.float64).tiny
_DEAD = 1e-4
"""Share of the largest channel's range; a channel below it counts as dead and is not scaled."""
_LARGEST_EXPONENT = 12
_BATCH = 8

Array = NDArray[np.float64]


def equalise_channels(model: onnx.ModelProto, images: NDArray[np.float32], *, exact: bool = True) -> onnx.ModelProto:
    """A copy of the float32 `model` with rescaled weights and the same outputs.

    A channel that only depthwise Convs read is scaled to the range of the others. If a Conv reads several channels, its
    scale spans them, so a part of the difference moves into its weights: half, or three quarters where the weights are
    rounded with care afterwards.

    Args:
        model: a model with one input, whose weights are initializers.
        images: preprocessed calibration images float32 [N, ...], on which ranges are measured.
        exact: powers of two alone, on chains of layers alone, and outputs that are equal to the last bit. (Powers of
            two over sums made the demo's model worse.)
    """
    equalised = ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    groups = [group for group in channel_groups(equalised.graph) if group.is_chain or not exact]
    shown = [[str(value.name) for value in group.values if _is_quantised(value)] for group in groups]
    ranges = _largest_magnitudes(model, [name for names in shown for name in names], images)
    for group, names in zip(groups, shown, strict=True):
        if not names:
            continue
        factors = _factors([ranges[name] for name in names], group.readers, exact=exact)
        for weight in dict.fromkeys(weight for node in group.writers for weight in _weights(node)):
            _set(weight, _array(weight) / _rows(factors, _array(weight).ndim))
        for weight, reader in {_weights(reader)[0]: reader for reader in group.readers}.items():
            _set(weight, _scaled_inputs(_array(weight), factors, number_of_groups(reader)))
    result: onnx.ModelProto = ir.to_proto(equalised)
    return result


def _is_quantised(value: ir.Value) -> bool:
    """Whether a Conv reads it, or writes it for something else than an activation function or pooling."""
    if any(node.op_type == "Conv" for node in value.consumers()):
        return True
    maker = value.producer()
    passed_on = [node.op_type in PASS_ON for node in value.consumers()]
    return maker is not None and maker.op_type == "Conv" and not all(passed_on)


def _weights(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs[1:] if value is not None]


def _factors(ranges: Sequence[Array], readers: Sequence[ir.Node], *, exact: bool) -> Array:
    """The divisor of each channel, with a geometric mean near 1."""
    shares = [largest / max(largest.max(initial=0.0), _TINY) for largest in ranges]
    largest = np.max(shares, axis=0) * max(each.max(initial=0.0) for each in ranges)
    live = largest > _DEAD * largest.max(initial=0.0)
    if not live.any():
        return np.ones_like(largest)
    wanted = np.where(live, largest, 1.0)
    dense = [node for node in readers if _array(_weights(node)[0]).shape[1] > 1]
    if dense:
        read = np.max([_magnitudes_by_input(node) for node in dense], axis=0)
        live &= read > _DEAD * read.max()
        share = _SHARE if exact else _LEARNED_SHARE
        wanted = wanted**share / np.where(live, read, 1.0) ** (1 - share)
    exponents = np.where(live, np.log2(np.where(live, wanted, 1.0)), 0.0)
    exponents -= exponents[live].mean() if live.any() else 0.0
    if exact:
        exponents = np.round(exponents)
    factors: Array = np.exp2(np.clip(np.where(live, exponents, 0.0), -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
    return factors


def _magnitudes_by_input(node: ir.Node) -> Array:
    """The largest magnitude among the weights of each input channel, float64 [C]."""
    weight, groups = _array(_weights(node)[0]), number_of_groups(node)
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


def _largest_magnitudes(model: onnx.ModelProto, names: Sequence[str], images: NDArray[np.float32]) -> dict[str, Array]:
    """Per named value [N, C, ...], the largest |x| of each channel over `images`, float64 [C]."""
    largest: dict[str, Array] = {}
    if not names:
        return largest
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner = OnnxRunner(shown, name="equalisation")
    size = runner.batch or _BATCH
    for start in range(0, len(images), size):
        batch = np.resize(images[start : start + size], (size, *images.shape[1:]))
        for name, array in zip(names, runner.run(batch), strict=True):
            seen = np.abs(array).max(axis=(0, *range(2, array.ndim))).astype(np.float64)
            largest[name] = np.maximum(largest[name], seen) if name in largest else seen
    return largest
