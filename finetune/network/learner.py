"""Backbone and losses as one module, so that DDP sees every parameter; and freezing of parts of the backbone.

The backbone runs in the configured precision, heads and losses in float32. A frozen BatchNorm keeps its running
statistics too: leaving it in training mode is a well-known way to ruin a fine-tuned model. Parameters that the network
itself holds fixed, such as the last scale of an iresnet or those that `rtool onnx2torch --freeze` froze, never train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...converters.weights.state_dict_loading import cancelled_biases
from ...errors import ConfigError, InputError
from ..config.name_patterns import check_patterns, matches
from ..losses.partial_fc import PartialFC
from .batch_counters import counted_together, counting_layers
from .checkpointing import Checkpointed
from .synchronised_batchnorm import synchronised

__all__ = ["Learner", "SeesMap", "check_freezing", "embedding_of"]

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SeesMap(Protocol):
    """What the losses over a feature map ask of a learner; `matching.map_losses.MapLosses` is one."""

    @property
    def places(self) -> tuple[int, ...]:
        """Which heads see the map."""

    def run(self, images: Tensor) -> tuple[Any, Tensor]:
        """The backbone's outputs and the map of images, in one pass."""

    def begin_epoch(self, epoch: int) -> None:
        """Note which epoch begins, or goes on."""

    def losses(self, heads: nn.ModuleList, maps: Tensor, labels: Tensor, visible: Tensor | None) -> dict[int, Tensor]:
        """The losses of these heads, by their place."""


class Learner(nn.Module):
    """`forward(images, labels)` gives the unweighted losses, one per head and those of the distiller: float32 [H]."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: nn.ModuleList,
        *,
        output: int,
        autocast: torch.dtype | None,
        distiller: nn.Module | None = None,
        watching: Callable[[], AbstractContextManager[None]] = nullcontext,
        labelled: int | None = None,
        maps: SeesMap | None = None,
    ) -> None:
        """Join them.

        Args:
            backbone: From images to embeddings.
            heads: From embeddings and labels to one loss each.
            output: Number of the backbone's output that is the embedding.
            autocast: The dtype in which the backbone computes; None for float32.
            distiller: From embeddings, labels and the outputs of teachers to losses [K], added behind those of `heads`;
                it counts as one of `self.heads` where these are trained and saved.
            watching: The context in which the backbone computes for the distiller.
            labelled: Images of each batch that have labels, from the first on; None: all.
            maps: The losses over a feature map, whose heads are among `heads`; None: there are none.
        """
        super().__init__()
        self.backbone = backbone
        self.heads = heads if distiller is None else nn.ModuleList([*heads, distiller])
        self._head_count = len(heads)
        self._labelled, self._watching = labelled, watching
        self.maps = maps
        self.autocast = autocast
        fixed = cancelled_biases(backbone)
        self._output = output
        self._checkpointed: Checkpointed | None = None
        self._synchronised = False
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._counting = counting_layers(backbone)
        self._may_learn = {n for n, p in backbone.named_parameters() if p.requires_grad and n not in fixed}

    def forward(
        self, images: Tensor, labels: Tensor, teachers: Sequence[Any] = (), visible: Tensor | None = None
    ) -> Tensor:
        """Losses [H] of normalised images [N, C, H, W] with int64 labels [N].

        Args:
            images: The batch.
            labels: Of all images, or of those that have some.
            teachers: What each teacher computes on them.
            visible: float32 [N, 1, H, W], 1 where an image shows the face; None where nothing is known.
        """
        autocast = torch.autocast(images.device.type, dtype=self.autocast, enabled=self.autocast is not None)
        counted = counted_together(self._counting)
        with autocast, counted, self._around(self.backbone), self._watching():
            if self.maps is None:
                embeddings, found = (self._compiled or self._embed)(images), None
            else:
                outputs, found = self.maps.run(images)
                embeddings = embedding_of(outputs, self._output)
        known = labels if self._labelled is None else labels[: self._labelled]
        heads, count, local = list(self.heads), len(known), {}
        if self.maps is not None and found is not None:
            shown = None if visible is None else visible[:count]
            local = self.maps.losses(self.heads, found[:count], known, shown)
        losses = [
            (local[number] if number in local else head(embeddings[:count], known)).reshape(1)
            for number, head in enumerate(heads[: self._head_count])
        ]
        losses += [head(embeddings, known, teachers) for head in heads[self._head_count :]]
        return torch.cat(losses)

    def compile_backbone(self) -> None:
        """Run the backbone through torch.compile from now on; the heads, which gather and branch, are not compiled.

        A function is compiled, not a module, so parameters keep their names.
        """
        self._compiled = torch.compile(self._embed)

    def checkpoint_backbone(self) -> None:
        """Compute activations again in the backward pass from now on, instead of keeping them all."""
        self._checkpointed = Checkpointed(self.backbone, self._around)

    def synchronise_batchnorms(self) -> None:
        """Let BatchNorms that learn use the batches of all ranks from now on."""
        self._synchronised = True

    def _around(self, module: nn.Module) -> AbstractContextManager[None]:
        """The context in which the backbone, or a part of it, computes."""
        return synchronised(module) if self._synchronised else nullcontext()

    def _embed(self, images: Tensor) -> Tensor:
        return embedding_of((self._checkpointed or self.backbone)(images), self._output)

    @property
    def heads_learn(self) -> bool:
        """Whether a head has weights of its own."""
        return any(isinstance(head, PartialFC) for head in self.heads) or any(True for _ in self.heads.parameters())

    def freeze(self, patterns: Mapping[str, float | None], epoch: int) -> None:
        """Freeze the backbone's parameters that `patterns` match at `epoch`, and let the rest train.

        Args:
            patterns: Pattern of parameter or module names -> first epoch in which they train; None: never.
            epoch: The epoch that begins, from 0.
        """
        held = [pattern for pattern, until in patterns.items() if until is None or epoch < until]
        for name, parameter in self.backbone.named_parameters():
            learns = name in self._may_learn and not any(matches(name, pattern) for pattern in held)
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None

    def train(self, mode: bool = True) -> Learner:
        """Training mode, except for BatchNorms that are frozen: none of their parameters learns.

        One without parameters, as in a supernet, learns its statistics while anything in the backbone learns.
        """
        super().train(mode)
        learns = any(parameter.requires_grad for parameter in self.backbone.parameters())
        for module in self.backbone.modules():
            if isinstance(module, _BATCHNORMS):
                own = [parameter.requires_grad for parameter in module.parameters()]
                if not (any(own) if own else learns):
                    module.eval()
        return self


def embedding_of(outputs: Tensor | tuple[Tensor, ...], index: int) -> Tensor:
    """Output `index` of a network, from 0, flattened to [N, D].

    Raises:
        InputError: there is no output of that number.
    """
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    if index >= len(outputs):
        raise InputError(f"model.output {index}: the network has {len(outputs)} outputs; count from 0")
    return outputs[index].flatten(1)


def check_freezing(learner: Learner, freeze: Mapping[str, float | None]) -> None:
    """Refuse patterns that match nothing, and those that leave nothing to train in the first epoch.

    The learner is left frozen as in that epoch.

    Raises:
        ConfigError: naming the pattern and near names, or the way out.
    """
    check_patterns("model.freeze", freeze, (name for name, _ in learner.backbone.named_parameters()))
    learner.freeze(freeze, 0)
    if not learner.heads_learn and not any(parameter.requires_grad for parameter in learner.backbone.parameters()):
        raise ConfigError(
            "model.freeze: the whole network is frozen and no loss has weights of its own, so the first epoch would "
            "train nothing; leave some layers out, or add a loss such as arcface"
        )
