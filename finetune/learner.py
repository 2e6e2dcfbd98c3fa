"""Backbone and losses as one module, so that DDP sees every parameter; and freezing of parts of the backbone.

The backbone runs in the configured precision, heads and losses in float32. A frozen BatchNorm keeps its running
statistics too: leaving it in training mode is a well-known way to ruin a fine-tuned model.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..converters.record import ConversionRecord
from ..errors import ConfigError, InputError, nearest

__all__ = ["Learner", "apply_freezing", "check_freezing", "embedding_of"]

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Learner(nn.Module):
    """`forward(images, labels)` gives the unweighted losses, one a head: [H]."""

    def __init__(self, backbone: nn.Module, heads: nn.ModuleList, *, output: int, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self._output = output
        self._autocast = autocast

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Losses [H] of normalised images [N, C, H, W] with int64 labels [N]."""
        with torch.autocast(images.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            embeddings = embedding_of(self.backbone(images), self._output)
        return torch.stack([head(embeddings, labels) for head in self.heads])

    def train(self, mode: bool = True) -> Learner:
        """Training mode, except for BatchNorms none of whose parameters learns."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, _BATCHNORMS) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self


def embedding_of(outputs: Tensor | tuple[Tensor, ...], index: int) -> Tensor:
    """The embedding among a network's outputs, as [N, D].

    Raises:
        InputError: there is no output `index`.
    """
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    if index >= len(outputs):
        raise InputError(f"model.output {index}: the network has {len(outputs)} outputs; count from 0")
    return outputs[index].flatten(1)


def check_freezing(backbone: nn.Module, freeze: Mapping[str, float | None]) -> None:
    """Refuse patterns that match nothing.

    Raises:
        ConfigError: naming the pattern and near names.
    """
    names = [name for name, _ in backbone.named_parameters()]
    for pattern in freeze:
        if not any(_matches(name, pattern) for name in names):
            raise ConfigError(f"model.freeze: '{pattern}' matches no parameter; {nearest(pattern, names)}")


def apply_freezing(backbone: nn.Module, freeze: Mapping[str, float | None], epoch: int) -> bool:
    """Freeze what `freeze` (pattern -> epoch of thawing) holds at `epoch`; True when anything changed."""
    held = [pattern for pattern, until in freeze.items() if until is None or epoch < until]
    changed = False
    cancelled = _cancelled_biases(backbone)
    for name, parameter in backbone.named_parameters():
        learns = name not in cancelled and not any(_matches(name, pattern) for pattern in held)
        changed |= parameter.requires_grad != learns
        parameter.requires_grad_(learns)
        if not learns:
            parameter.grad = None
    return changed


def _cancelled_biases(backbone: nn.Module) -> set[str]:
    """Biases of layers before a restored BatchNorm, which subtracts them again: their gradient is 0 and costs time."""
    record = getattr(backbone, "meta", {}).get("rtool")
    return {f"{entry.after}.bias" for entry in record.restored} if isinstance(record, ConversionRecord) else set()


def _matches(name: str, pattern: str) -> bool:
    """A pattern names parameters, or modules and with them all their parameters."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))
