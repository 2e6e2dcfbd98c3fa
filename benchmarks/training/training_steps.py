"""One optimizer step in two ways: by the trainer with a network converted from ONNX, and by a hand-written loop.

Both start from the same uint8 images in the CPU's memory and end with updated weights; on a GPU both use the same
autocast, and the class layer stays in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...converters import build_architecture, export, onnx_to_torch, restore_batchnorm
from ...converters.records.preprocessing import Preprocessing
from ...finetune.config.config import FinetuneConfig
from ...finetune.data.loading import Batch
from ...finetune.losses.heads import build_head
from ...finetune.losses.margin_losses import cosine_logits, margin_logits
from ...finetune.network.autocast import autocast_dtype
from ...finetune.network.learner import Learner
from ...finetune.network.networks import images_to_tensor
from ...finetune.training.stepping import Stepper

__all__ = ["StepPair", "build_as_trained", "build_step_pair"]

_CLASSES = 100


@dataclass(frozen=True)
class StepPair:
    """Two functions that run one step each, and the number of restored BatchNorms in the first one's network."""

    trainer: Callable[[], None]
    plain: Callable[[], None]
    restored: int


def build_step_pair(
    name: str, size: Preprocessing, batch: int, *, device: str = "cpu", precision: str = "fp32"
) -> StepPair:
    """The two steps of an architecture for images of noise, uint8 [batch, H, W, 3]."""
    pixels = torch.randint(0, 256, (batch, size.height, size.width, 3), dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (batch,))
    images = images_to_tensor(pixels[:32], size, torch.device("cpu"), channels_last=False)
    original = build_as_trained(name, size, images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        # Statistics of noise in random layers: folding them rounds more than in a trained network.
        export(original, path, inputs=images[:2].numpy(), tolerance=1e-4)
        converted = onnx_to_torch(path)
    restored = len(restore_batchnorm(converted, [images]).restored)
    target = torch.device(device)
    if target.type == "cuda":
        pixels, labels = pixels.pin_memory(), labels.pin_memory()
    return StepPair(
        _trainer_step(converted, size, pixels, labels, target, precision),
        _plain_step(original, size, pixels, labels, target, precision),
        restored,
    )


def build_as_trained(name: str, size: Preprocessing, images: Tensor) -> nn.Module:
    """An architecture with affine parameters and slopes that differ per channel, and the statistics of `images`.

    Exporters would share equal ones in the file. With statistics of other data, the restored BatchNorms would have
    another range than the original ones, and torch's PReLU is slower when signs are less predictable.
    """
    torch.manual_seed(0)
    options = {} if name.startswith(("osnet", "resnet")) else {"input_size": (size.height, size.width)}
    module: nn.Module = build_architecture(name, **options)
    batchnorms = [each for each in module.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    for each in module.modules():
        if isinstance(each, nn.PReLU):
            each.weight.data.uniform_(0.1, 0.4)
    for batchnorm in batchnorms:
        batchnorm.momentum = 1.0
        if batchnorm.affine:
            batchnorm.weight.data.uniform_(0.5, 1.5)
            batchnorm.bias.data.uniform_(-0.5, 0.5)
    with torch.no_grad():
        module.train()(images)
    for batchnorm in batchnorms:
        batchnorm.momentum = 0.1
    return module


def _trainer_step(
    module: nn.Module, size: Preprocessing, pixels: Tensor, labels: Tensor, device: torch.device, precision: str
) -> Callable[[], None]:
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "data": {"train": "-"},
            "losses": [{"kind": "arcface"}],
            "optimizer": {"kind": "sgd", "lr": 1e-4},
            "precision": precision,
        }
    )
    heads = nn.ModuleList([build_head(config.losses[0], 512, _CLASSES)])
    learner = Learner(module, heads, output=0, autocast=autocast_dtype(precision, device))
    learner = learner.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stepper = Stepper(config, learner, size, device)
    stepper.begin_epoch(0)
    return lambda: stepper.step([Batch(pixels, labels, ())], 1.0) and None


def _plain_step(
    module: nn.Module, size: Preprocessing, pixels: Tensor, labels: Tensor, device: torch.device, precision: str
) -> Callable[[], None]:
    """The hand-written loop, with the same memory format and optimizer."""
    module = module.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    weight = nn.Parameter(torch.randn(_CLASSES, 512, device=device) * 0.01)
    optimizer = torch.optim.SGD([*module.parameters(), weight], lr=1e-4, momentum=0.9, weight_decay=5e-4)
    mean, std = torch.tensor(size.mean, device=device), torch.tensor(size.std, device=device)
    dtype = autocast_dtype(precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def step() -> None:
        images = ((pixels.to(device, non_blocking=True).float() - mean) / std).permute(0, 3, 1, 2)
        targets = labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            embeddings = module(images)
        loss = F.cross_entropy(margin_logits(cosine_logits(embeddings.float(), weight), targets), targets)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()

    return step
