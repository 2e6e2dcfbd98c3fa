"""bf16, fp16, torch.compile and channels_last: the same training as in fp32, within what each arithmetic keeps."""

import shutil

import pytest
import torch
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.loading import Batch
from rtool.finetune.losses.heads import build_head
from rtool.finetune.network.autocast import autocast_dtype
from rtool.finetune.network.learner import Learner
from rtool.finetune.training.stepping import Stepper

CPU = torch.device("cpu")
HALVINGS = 16
"""Steps that fp16 may skip until its first loss scale, 2^16, has come down to what the network bears."""


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, bias=False),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 16, 3, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 8),
    )


def stepper(precision: str = "fp32", **model) -> tuple[Stepper, Learner]:
    config = FinetuneConfig.model_validate(
        {
            "precision": precision,
            "model": {"reference": "-", **model},
            "data": {"train": "-"},
            "losses": [{"kind": "arcface", "scale": 16}],
            "optimizer": {"kind": "sgd", "lr": 0.05, "clip": 5.0},
        }
    )
    backbone = small_network()
    heads = nn.ModuleList([build_head(config.losses[0], 8, 4)])
    learner = Learner(backbone, heads, output=0, autocast=autocast_dtype(precision, CPU))
    if config.model.channels_last:
        learner.to(memory_format=torch.channels_last)
    made = Stepper(config, learner, Preprocessing(20, 12), CPU)
    made.begin_epoch(0)
    return made, learner


def train(precision: str = "fp32", steps: int = 12, **model) -> tuple[list[float], Learner]:
    made, learner = stepper(precision, **model)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 20, 12, 3), dtype=torch.uint8, generator=generator)
    batch = Batch(pixels, torch.arange(16) % 4, ())
    losses: list[float] = []
    for _ in range(steps + HALVINGS):
        loss, succeeded = made.step([batch], 1.0)
        if succeeded:
            losses.append(loss.item())
        if len(losses) == steps:
            return losses, learner
    pytest.fail(f"{len(losses)} of {steps} steps succeeded")


def test_the_arithmetic_of_each_precision():
    assert autocast_dtype("fp32", CPU) is None
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    assert autocast_dtype("fp16", CPU) is torch.float16
    assert autocast_dtype("half", CPU) is torch.bfloat16
    assert autocast_dtype("half", torch.device("cuda", 0)) is torch.float16


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("bf16", 0.02), ("fp16", 0.002), ("half", 0.02)],  # of the first loss: 8 and 11 bits of mantissa, over 12 steps
)
def test_half_precision_learns_as_fp32_does(precision, tolerance):
    expected, _ = train()
    losses, learner = train(precision)
    assert losses[-1] < 0.8 * losses[0]
    for loss, reference in zip(losses, expected, strict=True):
        assert loss == pytest.approx(reference, abs=tolerance * expected[0])
    assert losses != expected
    assert {parameter.dtype for parameter in learner.parameters()} == {torch.float32}


def test_the_backbone_is_narrow_and_the_head_is_not():
    seen = {}
    _, learner = stepper("bf16")

    def note(name):
        def hook(module, inputs, output):
            seen[name] = output.dtype

        return hook

    learner.backbone[0].register_forward_hook(note("backbone"))
    learner.heads[0].register_forward_hook(note("head"))
    learner(torch.randn(4, 3, 20, 12), torch.arange(4))
    assert seen == {"backbone": torch.bfloat16, "head": torch.float32}


def test_fp16_skips_a_step_that_overflows_lowers_the_scale_and_goes_on():
    made, learner = stepper("fp16")
    pixels = torch.full((4, 20, 12, 3), 200, dtype=torch.uint8)
    batch = Batch(pixels, torch.arange(4), ())
    before = {name: value.clone() for name, value in learner.state_dict().items() if value.is_floating_point()}
    with torch.no_grad():
        learner.backbone[3].weight.mul_(1e6)  # beyond 65504, the largest float16
    scale = made.state()["scaler"][0].item()
    _, succeeded = made.step([batch], 1.0)
    assert not succeeded
    assert made.state()["scaler"][0].item() == scale / 2
    with torch.no_grad():
        learner.backbone[3].weight.copy_(before["backbone.3.weight"])
    for name, value in learner.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, before[name]), name
    assert any(made.step([batch], 1.0)[1] for _ in range(HALVINGS))


def test_memory_order_changes_nothing_but_rounding():
    expected, _ = train(channels_last=False)
    losses, learner = train(channels_last=True)
    assert learner.backbone[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the processor")
def test_a_compiled_network_learns_the_same():
    expected, _ = train(steps=4)
    losses, learner = train(steps=4, compile=True)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert not any("_orig_mod" in name for name in learner.state_dict())
