"""Guess which known architecture an ONNX graph is, from its operators and channels. `inspect` labels it a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

__all__ = ["guess_architecture"]

_IRESNET_PRELUS = {9: "iresnet18", 17: "iresnet34", 25: "iresnet50", 50: "iresnet100", 99: "iresnet200"}
"""Number of PReLUs -> name: one in the stem and one per block."""


def guess_architecture(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, onnx.TensorProto], operators: Mapping[str, int]
) -> str | None:
    """The name of a zoo entry or of a family ("transformer"); None when nothing matches.

    Args:
        nodes: those of the graph.
        weights: its stored tensors by name.
        operators: counts the nodes per operator type.
    """
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    if not convolutions:
        return "transformer" if operators.get("Softmax", 0) >= 2 else None
    widths = [_output_channels(node, weights) for node in convolutions]
    prelus, gates = operators.get("PRelu", 0), operators.get("Sigmoid", 0)
    depthwise = sum(_group(node) > 1 for node in convolutions)
    if gates >= 20 and depthwise > 50:
        return _osnet(max(widths))
    if prelus and depthwise > 5:
        return "mobilefacenet"
    if prelus in _IRESNET_PRELUS and not depthwise:
        return _IRESNET_PRELUS[prelus]
    if len(convolutions) in (52, 53) and max(widths) == 2048:
        return "resnet50_ibn_a" if operators.get("InstanceNormalization") else "resnet50"
    if operators.get("Softmax", 0) >= 2 and operators.get("MatMul", 0) > 10:
        return "vision transformer"
    return None


def _osnet(widest: int) -> str:
    width = widest / 512
    return {0.25: "osnet_x0_25", 0.5: "osnet_x0_5", 0.75: "osnet_x0_75", 1.0: "osnet_x1_0"}.get(width, "osnet")


def _output_channels(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> int:
    weight = weights.get(node.input[1]) if len(node.input) > 1 else None
    return int(weight.dims[0]) if weight is not None and len(weight.dims) else 0


def _group(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)
