"""Find the BatchNorms that an exported file still has; every remaining BatchNorm is reported with a reason."""

from __future__ import annotations

import copy

import onnx
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from ..records.record import record_of
from .fold import KeptBatchNorm, fold_batchnorm

__all__ = ["left_in_source", "still_there"]

_UNTOUCHED = "it is a node of the source graph, which write-back leaves unchanged; --simplifier onnxslim folds it"


def left_in_source(module: fx.GraphModule) -> tuple[KeptBatchNorm, ...]:
    """The BatchNorms of a converted module's source graph, which has no restored ones, each with its reason."""
    record = record_of(module)
    restored = {entry.module for entry in record.restored} if record is not None else set()
    own = [path for path, layer in module.named_modules() if isinstance(layer, _BatchNorm) and path not in restored]
    if not own:
        return ()
    report = fold_batchnorm(copy.deepcopy(module), only=own)
    return (*report.kept, *(KeptBatchNorm(entry.batchnorm, _UNTOUCHED) for entry in report.folded))


def still_there(kept: tuple[KeptBatchNorm, ...], simplified: onnx.ModelProto) -> tuple[KeptBatchNorm, ...]:
    """Those of `kept` that the simplified graph may still have: none, where it has no BatchNormalization node."""
    if all(node.op_type != "BatchNormalization" for node in simplified.graph.node):
        return ()
    return tuple(entry for entry in kept if entry.reason != _UNTOUCHED)
