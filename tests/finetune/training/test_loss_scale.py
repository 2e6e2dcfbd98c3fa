"""The loss scale of fp16: torch's rule, also for gradients that torch's scaler does not check."""

import torch
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.loading import Batch
from rtool.finetune.losses.heads import build_head
from rtool.finetune.network.learner import Learner
from rtool.finetune.training.loss_scale import LossScale
from rtool.finetune.training.metering import Meter
from rtool.finetune.training.stepping import Stepper

CPU = torch.device("cpu")


def test_it_moves_as_the_scaler_of_torch():
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    reference = torch.amp.GradScaler("cpu", growth_interval=2000)
    scale = LossScale(enabled=True)
    for step in range(4100):
        finite = step not in (3, 4, 2100)
        parameter.grad = torch.full((3,), 1.5 if finite else torch.inf) * scale.value
        reference.scale(torch.zeros(()))  # it makes its scale at first use
        gradient = parameter.grad.clone()
        scale.unscale([gradient])
        reference.unscale_(optimizer)
        assert torch.equal(gradient, parameter.grad)
        reference.step(optimizer)
        reference.update()
        scale.update(finite=finite)
        assert scale.value == reference.get_scale(), step
    again = LossScale(enabled=True)
    again.load(scale.state())
    assert torch.equal(again.state(), scale.state())


def stepper(freeze: dict[str, None]) -> tuple[Stepper, Learner]:
    config = FinetuneConfig.model_validate(
        {
            "precision": "fp16",
            "model": {"reference": "-", "freeze": freeze},
            "data": {"train": "-"},
            "losses": [{"kind": "partial_fc", "scale": 16}],
            "optimizer": {"kind": "sgd", "lr": 0.1},
        }
    )
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(108, 8))
    learner = Learner(backbone, nn.ModuleList([build_head(config.losses[0], 8, 5)]), output=0, autocast=torch.float16)
    made = Stepper(config, learner, Preprocessing(6, 6), CPU)
    made.begin_epoch(0)
    return made, learner


BATCH = Batch(torch.arange(8 * 108).reshape(8, 6, 6, 3).remainder(256).byte(), torch.arange(8) % 5, ())


def test_a_step_left_out_for_the_gradient_of_a_shard_alone_lowers_the_scale(monkeypatch):
    made, learner = stepper({})
    assert any(made.step([BATCH], 1.0)[1] for _ in range(16))  # the first scale may be too large
    before = made.state()["scaler"][0].item()
    monkeypatch.setattr(learner.heads[0], "gradient", lambda: torch.tensor([torch.inf]))
    assert not made.step([BATCH], 1.0)[1]
    assert made.state()["scaler"].tolist() == [before / 2, 0]


def test_a_shard_learns_while_the_whole_network_is_frozen():
    made, learner = stepper({"*": None})
    shard = learner.heads[0].weight.clone()
    network = [parameter.clone() for parameter in learner.backbone.parameters()]
    assert made.step([BATCH], 1.0)[1]
    assert not torch.equal(learner.heads[0].weight, shard)
    assert all(torch.equal(a, b) for a, b in zip(network, learner.backbone.parameters(), strict=True))


def test_losses_of_skipped_steps_stay_out_of_the_mean():
    meter = Meter(2, CPU)
    meter.add(torch.tensor([1.0, 2.0]), 8, 0.0, 1.0, succeeded=True)
    meter.add(torch.tensor([torch.nan, torch.inf]), 8, 0.0, 1.0, succeeded=False)
    meter.add(torch.tensor([3.0, 4.0]), 8, 0.0, 1.0, succeeded=True)
    assert meter.mean_losses.tolist() == [2.0, 3.0]
    assert meter.images_per_second == 8
    meter.reset()
    meter.add(torch.tensor([torch.nan, torch.inf]), 8, 0.0, 1.0, succeeded=False)
    assert meter.mean_losses.isnan().all()
