"""How many layers of a graph absorbed a BatchNorm, as far as the file gives evidence of it.

1. An rtool export states in its metadata which BatchNorm went into which weight.
2. onnxscript's optimiser leaves the name of its rule, FuseBatchNorm..., with the node it made.
3. torch's older exporter replaces weight and bias of a convolution when it fuses a BatchNorm into it, and names both
   again (`onnx::Conv_1047` and `onnx::Conv_1048`; plain numbers in old versions). A weight alone is renamed where it
   was computed from others, as by weight normalisation, and is not evidence.

A file in which nothing is found may still have been fused, by a tool or in the module, without a trace: the number is
unknown, not 0.

Source of rule 3: torch/csrc/jit/passes/onnx/eval_peephole.cpp, `fuseConvBatchNorm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx

from ..graphs.graph_view import GraphView

__all__ = ["count_fused"]

_RULE = "pkg.onnxscript.rewriter.rule_name"
_RENAMED = re.compile(r"onnx::Conv(Transpose)?_\d+|\d+")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def count_fused(view: GraphView, stated: Mapping[str, str]) -> int | None:
    """The layers that had a BatchNorm; None where nothing tells. `stated` is what the metadata says, rule 1."""
    layers = [node for node in view.nodes if node.op_type in (*_CONVOLUTIONS, "Gemm") and len(node.input) > 1]
    torch_made = view.proto.producer_name == "pytorch"
    fused = sum(
        node.input[1] in stated or _by_rule(node) or (torch_made and _both_renamed(view, node)) for node in layers
    )
    return fused or None


def _by_rule(node: onnx.NodeProto) -> bool:
    return any(entry.key == _RULE and "FuseBatchNorm" in entry.value for entry in node.metadata_props)


def _both_renamed(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether weight and bias of a convolution were stored under new names, rule 3."""
    if node.op_type not in _CONVOLUTIONS or len(node.input) < 3:
        return False
    return all(name in view.stored and _RENAMED.fullmatch(name) for name in node.input[1:3])
