"""Restore BatchNorm behind the layers that an exporter fused it into, without changing the function.

A fused network trains badly, because nothing normalises its activations. For every output channel of a fused layer,
mean mu and variance var are measured on calibration images. A BatchNorm with running statistics (mu, var),
gamma = sqrt(var + eps) and beta = mu is added behind the layer: the identity in eval mode (up to rounding), a real
BatchNorm in training. gamma is at least sqrt(eps), so a dead channel does no harm.

A layer gets a BatchNorm unless

1. it has no bias (fusing always adds one), is called more than once, or a BatchNorm follows it;
2. its layers are those of an architecture of the zoo that has no BatchNorm there (`original_names`);
3. the names in the file say that its bias is original, not fused;
4. its input maps are 1 x 1, as in a channel gate;
5. it is a Linear on sequences, or in a model whose fixed batch is 1, or (unless the original is known) one whose
   output reaches a model output through more than activations and norms.

Names and eps come from the original architecture where it is known, see `batchnorm_names` for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ...errors import InputError
from ..records.node_facts import facts_of
from ..records.provenance import ChainLink
from ..records.record import RestoredBatchNorm, record_of, require_graph
from ..runtime.batches.batch_by_shapes import fixed_batch_by_shapes
from ..runtime.eval_mode import in_eval_mode
from .affine import Layer
from .batchnorm_names import batchnorm_path
from .calibration import TOLERATED_UNCERTAINTY, Batch, calibrate
from .exact_scale import exact_scale
from .fused_layers import TRANSPARENT, fused_layers, stated_fold
from .observations import Calibration, Observation
from .optional_bias import let_bias_be_missing
from .original_names import OriginalNetwork, find_original

__all__ = ["RestoreReport", "SkippedLayer", "insert_batchnorms", "restore_batchnorm", "restored_link"]

EPS = 1e-5

_BATCHNORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""Number of spatial axes of a Conv -> BatchNorm class."""
_ACTIVATIONS = (nn.ReLU, nn.PReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU)


@dataclass(frozen=True)
class SkippedLayer:
    """A Conv or Linear (a module path) that got no BatchNorm, and the reason."""

    layer: str
    reason: str


@dataclass(frozen=True)
class RestoreReport:
    """Which BatchNorms were restored, on how many images, and how much batch statistics change the output."""

    restored: tuple[RestoredBatchNorm, ...]
    skipped: tuple[SkippedLayer, ...]
    images: int
    images_sha256: str
    """Digest of the set of calibration images, see `image_digest`."""
    dead_channels: int
    """Number of channels that never varied over the calibration images."""
    uncertainty: float
    """Largest standard error of the means over all layers, in standard deviations."""
    uncertain_layer: str
    """Path of the layer with that error; "" when nothing was restored."""
    train_drift: float | None
    """Largest change of the output on the largest calibration batch, relative to its largest value, when the restored
    BatchNorms use the statistics of that batch instead of running statistics; None if all batches had one image."""
    architecture: str | None = None
    """Name of the recognised architecture, which gave the names of the BatchNorms; None if there is none."""

    @property
    def few_images(self) -> bool:
        """Whether there were too few calibration images for good statistics."""
        return self.uncertainty > TOLERATED_UNCERTAINTY

    @property
    def warning(self) -> str:
        """The warning about too few calibration images; "" when there are enough."""
        if not self.few_images:
            return ""
        enough = math.ceil(self.images * (self.uncertainty / TOLERATED_UNCERTAINTY) ** 2)
        return (
            f"{self.images} calibration images are few: means of {self.uncertain_layer!r} are known to "
            f"{self.uncertainty:.2g} standard deviations; about {enough} images bring that to {TOLERATED_UNCERTAINTY:g}"
        )


def restore_batchnorm(
    module: fx.GraphModule,
    batches: Iterable[Batch],
    *,
    eps: float = EPS,
    state: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> RestoreReport:
    """Restore a BatchNorm behind every layer of `module` that lost one, in place.

    If no layer lost one, `module` is unchanged and the report has a reason for each layer. A state_dict of the unfused
    original loads into the result by name; a missing bias is loaded as zero.

    Args:
        module: a converted network; its function in eval mode does not change.
        batches: preprocessed calibration images float32 [N, C, H, W]; read once, one batch at a time.
        eps: epsilon of the new BatchNorms, where the original architecture is not known.
        state: file from which an interrupted calibration continues, see `calibration`.
        progress: called with the number of images seen, after every batch.

    Raises:
        InputError: no GraphModule, too few images or of another size, non-finite activations, an unusable state file.

    Examples:
        >>> module = rtool.converters.onnx_to_torch("model.onnx")
        >>> report = rtool.converters.restore_batchnorm(module, [torch.rand(128, 3, 16, 8)])
        >>> [(entry.module, entry.after) for entry in report.restored], report.images
        ([('bn', 'conv')], 128)
    """
    require_graph(module)
    skipped: dict[str, str] = {}
    original = find_original(module)
    candidates = fused_layers(module, skipped, original)
    layers = {path: module.get_submodule(path) for path in candidates}
    calibration = Calibration()  # without a layer to measure, no image is read
    if layers:
        calibration = calibrate(module, layers, batches, state=state, progress=progress)  # type: ignore[arg-type]
    restored = []
    for path, node in candidates.items():
        observation = calibration.layers[path]
        reason = _reason_after_calibration(module, node, observation, original)
        if reason:
            skipped[path] = reason
            continue
        entry = _entry(module, path, node, observation, original, eps)
        _set_identity(_insert(module, entry), observation)
        restored.append(entry)
    _finish(module, restored)
    uncertain = max(restored, key=lambda entry: _uncertainty(calibration, entry), default=None)
    return RestoreReport(
        restored=tuple(restored),
        skipped=tuple(SkippedLayer(path, reason) for path, reason in skipped.items()),
        images=calibration.images,
        images_sha256=calibration.sha256,
        dead_channels=sum(int((calibration.layers[entry.after].statistics.squares == 0).sum()) for entry in restored),
        uncertainty=_uncertainty(calibration, uncertain) if uncertain is not None else 0.0,
        uncertain_layer=uncertain.after if uncertain is not None else "",
        train_drift=_train_drift(module, restored, calibration),
        architecture=original.name if original is not None else None,
    )


def _uncertainty(calibration: Calibration, entry: RestoredBatchNorm) -> float:
    return calibration.layers[entry.after].statistics.uncertainty


def _entry(
    module: fx.GraphModule,
    path: str,
    node: fx.Node,
    observation: Observation,
    original: OriginalNetwork | None,
    eps: float,
) -> RestoredBatchNorm:
    """The new BatchNorm behind the layer at `path`, with the original's name and eps where they are known."""
    known = original.batchnorms.get(path) if original is not None else None
    stated = stated_fold(module, path) or (known.path if known is not None else "") or facts_of(node).scope
    name = batchnorm_path(module, path, stated)
    channels = len(observation.statistics.mean)
    return RestoredBatchNorm(name, path, channels, known.eps if known is not None else eps)


def restored_link(report: RestoreReport, **facts: Any) -> ChainLink:
    """The link of a restoration in the provenance of a model; `facts` are added to it."""
    detail = f"{len(report.restored)} BatchNorms, calibrated on {report.images} images"
    own = {
        "batchnorms": len(report.restored),
        "images": report.images,
        "images_sha256": report.images_sha256,
        "uncertainty": report.uncertainty,
        "train_drift": report.train_drift,
        "warning": report.warning,
    }
    return ChainLink("BatchNorm restored", detail, {**own, **facts})


def insert_batchnorms(module: fx.GraphModule, restored: Iterable[RestoredBatchNorm]) -> None:
    """Add fresh BatchNorms at the places in `restored`, in place; the caller loads their tensors.

    Raises:
        InputError: a layer that an entry names is not in `module`, or is called more than once.
    """
    entries = list(restored)
    for entry in entries:
        _insert(module, entry)
    _finish(module, entries)


def _reason_after_calibration(
    module: fx.GraphModule, node: fx.Node, observation: Observation, original: OriginalNetwork | None
) -> str:
    layer = module.get_submodule(str(node.target))
    if observation.single_position:
        return "its maps are 1 x 1, as in a gate"
    if isinstance(layer, nn.Linear):
        if observation.rank != 2:
            return "it works on sequences"
        if _supports_single_images_only(module):
            return "the model supports one image at a time, which has no variance in training"
        known = original is not None and node.target in original.batchnorms
        if not known and not _leads_to_output(module, node):
            return "its output is mixed with others"
    return ""


def _supports_single_images_only(module: fx.GraphModule) -> bool:
    record = record_of(module)
    return record is not None and fixed_batch_by_shapes(module, record.inputs) == 1


def _leads_to_output(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether only activations and norms lie between `node` and an output of the graph."""
    for user in node.users:
        if user.op == "output":
            return True
        is_activation = user.op == "call_module" and isinstance(
            module.get_submodule(str(user.target)), (*TRANSPARENT, *_ACTIVATIONS)
        )
        normalises = user.op == "call_function" and getattr(user.target, "__name__", "") in ("normalize", "relu")
        if (is_activation or normalises) and _leads_to_output(module, user):
            return True
    return False


def _insert(module: fx.GraphModule, entry: RestoredBatchNorm) -> _BatchNorm:
    """Add a fresh BatchNorm at `entry.module`, behind the only call of `entry.after`."""
    calls = [node for node in module.graph.nodes if node.op == "call_module" and node.target == entry.after]
    if len(calls) != 1:
        raise InputError(f"restored BatchNorm {entry.module!r}: no single layer {entry.after!r} in the model")
    layer = module.get_submodule(entry.after)
    assert isinstance(layer, _ConvNd | nn.Linear)
    batchnorm = _class_for(layer)(entry.channels, eps=entry.eps, device=layer.weight.device, dtype=layer.weight.dtype)
    batchnorm.train(module.training)
    module.add_submodule(entry.module, batchnorm)
    with module.graph.inserting_after(calls[0]):
        node = module.graph.call_module(entry.module, (calls[0],))
    calls[0].replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return batchnorm


def _class_for(layer: Layer) -> type[_BatchNorm]:
    return nn.BatchNorm1d if isinstance(layer, nn.Linear) else _BATCHNORMS[len(layer.kernel_size)]


@torch.no_grad()
def _set_identity(batchnorm: _BatchNorm, observation: Observation) -> None:
    """Set the running statistics as measured, and gamma and beta that undo them."""
    assert batchnorm.running_mean is not None
    assert batchnorm.running_var is not None
    variance, gamma = exact_scale(observation.statistics.variance.to(batchnorm.weight.dtype), batchnorm.eps)
    batchnorm.running_mean.copy_(observation.statistics.mean)
    batchnorm.running_var.copy_(variance)
    batchnorm.weight.copy_(gamma)
    batchnorm.bias.copy_(batchnorm.running_mean)


def _finish(module: fx.GraphModule, restored: list[RestoredBatchNorm]) -> None:
    module.graph.lint()
    module.recompile()
    let_bias_be_missing(module, (entry.after for entry in restored))
    record = record_of(module)
    if record is not None:
        known = {entry.module for entry in record.restored}
        record.restored += tuple(entry for entry in restored if entry.module not in known)


@torch.no_grad()
def _train_drift(module: fx.GraphModule, restored: list[RestoredBatchNorm], calibration: Calibration) -> float | None:
    """Relative change of the output when the restored BatchNorms use the statistics of the largest batch."""
    if not restored:
        return 0.0
    if len(calibration.largest[0]) < 2:
        return None
    batchnorms = [module.get_submodule(entry.module) for entry in restored]
    with in_eval_mode(module):
        expected = _first(module(*calibration.largest))
        saved = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in batchnorms]  # type: ignore[operator]
        for layer in batchnorms:
            layer.train()
            layer.momentum = 0.0  # type: ignore[assignment]  # keep the running statistics
        drifted = _first(module(*calibration.largest))
        for layer, (momentum, tracked) in zip(batchnorms, saved, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(tracked)  # type: ignore[operator]
    return float((drifted - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _first(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs
