"""Which layers of a fused network may have lost a BatchNorm, told from the graph and its names; nothing is run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..records.node_facts import facts_of
from ..records.record import ConversionRecord, RestoredBatchNorm, record_of
from ..records.value_names import is_generated
from .batchnorm_names import usual_names
from .original_names import OriginalNetwork, find_original

__all__ = ["TRANSPARENT", "fused_layers", "named_batchnorms", "stated_fold"]

TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Layers through which a BatchNorm still counts as being behind a Conv."""


def named_batchnorms(module: fx.GraphModule, channels: Mapping[str, int], *, eps: float) -> list[RestoredBatchNorm]:
    """The places of BatchNorms whose names are known, such as those in the state_dict of the unfused original.

    Args:
        module: the fused network.
        channels: path of each BatchNorm -> its channels.
        eps: epsilon of the BatchNorms, where the original architecture is not known.

    Returns:
        One entry per BatchNorm that lies behind a layer by its name, in graph order.
    """
    original = find_original(module)
    free, found = dict(channels), []
    for path, node in fused_layers(module, {}, original).items():
        known = original.batchnorms.get(path) if original is not None else None
        stated = stated_fold(module, path) or (known.path if known is not None else "") or facts_of(node).scope
        width = _outputs(module.get_submodule(path))
        name = next((name for name in usual_names(path, stated) if free.get(name) == width), None)
        if name is not None:
            del free[name]
            found.append(RestoredBatchNorm(name, path, width, known.eps if known is not None else eps))
    return found


def _outputs(layer: nn.Module) -> int:
    """The channels or features that a Conv or Linear gives."""
    return layer.out_channels if isinstance(layer, _ConvNd) else int(getattr(layer, "out_features"))  # noqa: B009


def fused_layers(
    module: fx.GraphModule, skipped: dict[str, str], original: OriginalNetwork | None
) -> dict[str, fx.Node]:
    """Path -> node of the layers that may have lost a BatchNorm, by rules 1 to 3; reasons of others go to `skipped`."""
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), _ConvNd | nn.Linear):
            calls.setdefault(node.target, []).append(node)
    candidates = {}
    for path, nodes in calls.items():
        reason = _reason_before_calibration(module, path, nodes, original)
        if reason:
            skipped[path] = reason
        else:
            candidates[path] = nodes[0]
    return candidates


def _reason_before_calibration(
    module: fx.GraphModule, path: str, nodes: list[fx.Node], original: OriginalNetwork | None
) -> str:
    if getattr(module.get_submodule(path), "bias", None) is None:
        return "it has no bias, so nothing was fused into it"
    if len(nodes) > 1:
        return f"it is called {len(nodes)} times"
    if _followed_by_batchnorm(module, nodes[0]):
        return "a BatchNorm follows it"
    if original is not None and path in original.layers and path not in original.batchnorms:
        return f"{original.name} has no BatchNorm behind it"
    if not stated_fold(module, path) and _bias_is_original(record_of(module), path):
        return "the names in the file say that its bias is original"
    return ""


def _followed_by_batchnorm(module: fx.GraphModule, node: fx.Node) -> bool:
    return any(
        user.op == "call_module"
        and (
            isinstance(follower := module.get_submodule(str(user.target)), _BatchNorm)
            or (isinstance(follower, TRANSPARENT) and _followed_by_batchnorm(module, user))
        )
        for user in node.users
    )


def stated_fold(module: fx.GraphModule, path: str) -> str:
    """The path of the BatchNorm folded into the layer at `path`, as stated in the file's metadata; else ""."""
    record = record_of(module)
    if record is None or f"{path}.weight" not in record.parameters:
        return ""
    return record.folded.get(record.parameters[f"{path}.weight"].value, "")


def _bias_is_original(record: ConversionRecord | None, path: str) -> bool:
    """Whether weight and bias have names of the original model; every exporter renames fused ones."""
    if record is None or f"{path}.bias" not in record.parameters:
        return False
    weight, bias = (record.parameters[f"{path}.{name}"].value for name in ("weight", "bias"))
    return not (is_generated(weight) or is_generated(bias) or bias.endswith("_bias"))
