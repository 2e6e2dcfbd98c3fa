"""One optimizer step: forward and backward over a group of batches, clip, update, average. Single process or DDP.

A step whose gradient is not finite is skipped, and the BatchNorm statistics that its forward pass changed are restored.
`state` and `load` cover everything that a later step depends on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...converters.records.preprocessing import Preprocessing
from ...errors import ConfigError
from ..config.config import FinetuneConfig
from ..data.loading import Batch
from ..distillation.panel import Teachers
from ..losses.partial_fc import PartialFC
from ..matching.map_heads import QAConvHead
from ..network.autocast import autocast_dtype
from ..network.learner import Learner
from ..network.networks import images_to_tensor
from ..processes.collectives import all_reduce_sum, world_size
from .averaging import average_of
from .divergence import describe_divergence
from .loss_scale import LossScale
from .optimizers import build_optimizer, load_optimizer_state, optimizer_state, set_learning_rates

__all__ = ["Stepper"]

_NEAREST = "sampler/nearest"


class Stepper:
    """Owns the optimizer, the loss scale and the average of a learner on one process."""

    def __init__(
        self,
        config: FinetuneConfig,
        learner: Learner,
        preprocessing: Preprocessing,
        device: torch.device,
        teachers: Teachers | None = None,
        *,
        skips_parameters: bool = False,
    ) -> None:
        """Build the optimizer.

        Args:
            config: The run.
            learner: What is trained.
            preprocessing: Of its images.
            device: Where it computes.
            teachers: Whose outputs it learns.
            skips_parameters: Whether some parameters take no part in some steps, the same ones on all ranks.
        """
        self._skips_parameters = skips_parameters
        self._config, self._learner, self._preprocessing, self._device = config, learner, preprocessing, device
        self._optimizer, self._named = build_optimizer(config.optimizer, learner.backbone, learner.heads)
        scaled = autocast_dtype(config.precision, device) is torch.float16
        self._scale = LossScale(enabled=scaled)
        self._average = average_of(learner.backbone, config.optimizer)
        self._teachers = teachers
        if teachers is not None and self._average is not None:
            teachers.follow(learner.backbone, self._average.tensors, config.model.output)
        self._loss_weights = torch.tensor([weight for _, weight in config.terms()], device=device)
        self._buffers = [buffer for buffer in learner.buffers() if buffer.is_floating_point()]
        self._buffer_backup = [buffer.clone() for buffer in self._buffers]
        self._shards = [head for head in learner.heads if isinstance(head, PartialFC)]
        self._model: nn.Module = learner
        # Listed once: walking the modules of a deep network takes the host as long as many launches.
        self._parameters = list(learner.parameters())
        self.nearest: NDArray[np.int64] | None = None
        """Of `data.sampler: graph`, the people of this epoch's batches; a resumed epoch goes on with them."""
        self.stop_asked = False
        """Whether any process was asked to stop before the last step; alike on all of them."""
        self.not_finite = ""
        """What was not finite in the last step, in words; "" where its gradient was finite."""
        if config.model.gradient_checkpointing:
            learner.checkpoint_backbone()
        if config.model.sync_batchnorm:
            learner.synchronise_batchnorms()
        if config.model.compile:
            learner.compile_backbone()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first parameter group at the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def begin_epoch(self, epoch: int, *, fresh: bool = True) -> None:
        """Freeze parameters as `model.freeze` says for `epoch`, and wrap the learner again.

        DDP decides when it is built which parameters it synchronises.

        Args:
            epoch: Its number, from 0.
            fresh: Whether the epoch begins; it goes on where a run is resumed.
        """
        if self._learner.maps is not None:
            self._learner.maps.begin_epoch(epoch)
        if fresh:
            for head in self._learner.heads:
                if isinstance(head, QAConvHead):
                    head.begin_epoch()
        self._learner.freeze(self._config.model.freeze, epoch)
        self._learner.train()
        self._model = self._learner
        if world_size() > 1 and any(parameter.requires_grad for parameter in self._learner.parameters()):
            devices = [self._device] if self._device.type == "cuda" else None
            self._model = DistributedDataParallel(
                self._model, device_ids=devices, find_unused_parameters=self._skips_parameters
            )

    def step(self, group: list[Batch], rate: float, *, stop: bool = False) -> tuple[Tensor, bool]:
        """Train on a group of batches.

        Args:
            group: Batches of this process, whose gradients are averaged.
            rate: Factor of the peak learning rates.
            stop: Whether this process was asked to stop; `stop_asked` then is true on all of them.

        Returns:
            The mean unweighted losses float32 [H] of this process, and whether the gradient was finite, so that the
            weights were updated.
        """
        set_learning_rates(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        if self._buffers:
            torch._foreach_copy_(self._buffer_backup, self._buffers)
        total = torch.zeros_like(self._loss_weights)
        for number, batch in enumerate(group):
            with self._synchronised(number == len(group) - 1):
                losses = self._losses(self._model, batch)
                total_loss = (losses * self._loss_weights).sum().mul(self._scale.value / len(group))
                total_loss.backward()  # type: ignore[no-untyped-call]
            total += losses.detach() / len(group)
        finite = self._update(rate, stop)
        self.not_finite = "" if finite else self._describe(total)
        return total, finite

    def objective(self, batch: Batch) -> Tensor:
        """The weighted sum of the losses of a batch on this process, a scalar; DDP does not see its gradient."""
        return (self._losses(self._learner, batch) * self._loss_weights).sum()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; each group has its peak learning rate under `peak_lr`."""
        return self._optimizer

    def evaluated(self) -> AbstractContextManager[None]:
        """Within this context the backbone holds what is evaluated and saved: the average, if one is kept."""
        return nullcontext() if self._average is None else self._average.applied_to(self._learner.backbone)

    def state(self) -> dict[str, Tensor]:
        """Heads, optimizer and loss scale; and the backbone itself, if its average is what the bundle holds."""
        tensors = {f"heads/{name}": value for name, value in self._learner.heads.state_dict().items()}
        tensors.update({f"optimizer/{k}": v for k, v in optimizer_state(self._optimizer, self._named).items()})
        if self._scale.enabled:
            tensors["scaler"] = self._scale.state()
        if self._average is not None:
            tensors.update({f"average/{name}": value for name, value in self._average.state().items()})
            tensors.update({f"backbone/{name}": value for name, value in self._learner.backbone.state_dict().items()})
        if self.nearest is not None:
            tensors[_NEAREST] = torch.from_numpy(self.nearest)
        # Copies: the caller may save them while the average stands in the backbone.
        return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def shard_state(self) -> dict[str, Tensor]:
        """The tensors that only this rank has: its shards of PartialFC heads, by `number/name`."""
        return {
            f"{number}/{name}": value.clone()
            for number, shard in enumerate(self._shards)
            for name, value in shard.shard_state().items()
        }

    def load_shards(self, ranks: list[dict[str, Tensor]]) -> None:
        """Copy this rank's classes from the saved shards of all ranks, which may have been another number.

        Raises:
            ConfigError: the shards have another number of classes.
        """
        for number, shard in enumerate(self._shards):
            rows = sum(len(tensors[f"{number}/weight"]) for tensors in ranks)
            if rows != shard.classes:
                raise _misfit("partial_fc", f"{rows} classes", f"{shard.classes}")
            shard.load_shards([_below(tensors, f"{number}/") for tensors in ranks])

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors of `state`.

        Raises:
            ConfigError: the saved heads have another number of classes.
        """
        saved = _below(tensors, "heads/")
        for name, value in self._learner.heads.state_dict().items():
            was, now = list(saved[name].shape), list(value.shape)
            if was != now:
                raise _misfit(name, f"shape {was}", f"{now}")
        self._learner.heads.load_state_dict(saved)
        load_optimizer_state(self._optimizer, self._named, _below(tensors, "optimizer/"))
        self.nearest = tensors[_NEAREST].numpy() if _NEAREST in tensors else None
        if "scaler" in tensors:
            self._scale.load(tensors["scaler"])
        if self._average is not None:
            self._average.load(_below(tensors, "average/"))
            self._learner.backbone.load_state_dict(_below(tensors, "backbone/"))

    def _describe(self, losses: Tensor) -> str:
        """What was not finite in this step on this process."""
        gradients = [shard.gradient() for shard in self._shards]
        kinds = [name for name, _ in self._config.terms()]
        return describe_divergence(self._learner.named_parameters(), gradients, losses, kinds)

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The unweighted losses float32 [H] of a batch."""
        images = images_to_tensor(batch.pixels, self._preprocessing, self._device, self._config.model.channels_last)
        said = [] if self._teachers is None else self._teachers.outputs(batch, self._device)
        visible = None if batch.visible is None else batch.visible.to(self._device, non_blocking=True)
        losses: Tensor = model(images, batch.labels.to(self._device, non_blocking=True), said, visible)
        return losses

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """All-reduce gradients with the last batch of a group only."""
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    def _update(self, rate: float, stop: bool) -> bool:
        parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._scale.unscale(gradients)
        norm = torch.nn.utils.get_total_norm(gradients).to(self._device)
        shard_squares, stopping = self._shared(stop)
        if self._shards:
            norm = (norm.square() + shard_squares).sqrt()
        # One fetch per step: each waits until the device has finished all its work.
        norm_value, stop_value = torch.stack([norm, stopping]).tolist()
        finite, self.stop_asked = math.isfinite(norm_value), stop_value > 0
        if finite:
            if self._config.optimizer.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self._config.optimizer.clip, norm)
                factor = (self._config.optimizer.clip / (norm + 1e-6)).clamp(max=1.0)
                for shard in self._shards:
                    shard.scale_gradient(factor)
            self._optimizer.step()
            self._step_shards(rate)
            if self._average is not None:
                self._average.update(self._learner.backbone)
        elif self._buffers:
            torch._foreach_copy_(self._buffers, self._buffer_backup)
        self._scale.update(finite=finite)
        return finite

    def _shared(self, stop: bool) -> tuple[Tensor, Tensor]:
        """Sums over all ranks: the squared gradients of shards, divided by the loss scale, and who must stop."""
        squares = torch.zeros((), device=self._device)
        for shard in self._shards:
            shard.scale_gradient(1 / self._scale.value)
            gradient = shard.gradient()
            if gradient is not None:
                squares += gradient.square().sum()
        stopping = torch.full((), float(stop), device=self._device)
        shard_squares, stopping = all_reduce_sum(torch.stack([squares, stopping]))
        return shard_squares, stopping

    def _step_shards(self, rate: float) -> None:
        """The rows that PartialFC used, at the learning rate of heads."""
        optimizer = self._config.optimizer
        for shard in self._shards:
            shard.step((optimizer.head_lr or optimizer.lr) * rate)


def _misfit(what: str, was: str, now: str) -> ConfigError:
    return ConfigError(
        f"data.train: {what} of the losses has {was} in the checkpoint and {now} here, so the training data have "
        "another number of identities; put them back, or start a new run"
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
