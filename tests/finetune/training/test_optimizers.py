"""Schedules against their formulas; groups, multipliers and decay; averages."""

import math

import pytest
import torch
from torch import nn

from rtool.errors import ConfigError
from rtool.finetune.config.config import OptimizerConfig, ScheduleConfig
from rtool.finetune.training.averaging import WeightAverage
from rtool.finetune.training.optimizers import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    set_learning_rates,
)
from rtool.finetune.training.schedules import learning_rate_factor


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("config", "step", "expected"),
    [
        (ScheduleConfig(kind="constant"), 77, 1.0),
        (ScheduleConfig(kind="cosine"), 50, 0.5),
        (ScheduleConfig(kind="cosine", final=0.1), 100, 0.1),
        (ScheduleConfig(kind="cosine"), 25, (1 + math.cos(math.pi / 4)) / 2),
        (ScheduleConfig(kind="polynomial", power=2.0), 50, 0.25),
        (ScheduleConfig(kind="multistep", milestones=(4, 8), gamma=0.1), 39, 1.0),
        (ScheduleConfig(kind="multistep", milestones=(4, 8), gamma=0.1), 40, 0.1),
        (ScheduleConfig(kind="multistep", milestones=(4, 8), gamma=0.1), 85, 0.01),
        (ScheduleConfig(kind="polynomial", warmup_epochs=2), 0, 1 / 20),
        (ScheduleConfig(kind="polynomial", warmup_epochs=2), 19, 1.0),
        (ScheduleConfig(kind="polynomial", warmup_epochs=2), 60, 0.5),
        (ScheduleConfig(kind="polynomial", warmup_epochs=9, warmup_steps=20), 60, 0.5),  # steps count
        (ScheduleConfig(kind="multistep", milestone_steps=(39,), gamma=0.1), 38, 1.0),
        (ScheduleConfig(kind="multistep", milestone_steps=(39,), milestones=(4,), gamma=0.1), 40, 0.01),
        (ScheduleConfig(kind="polynomial", moves="epoch"), 59, 0.5),  # as at step 50
        (ScheduleConfig(kind="multistep", moves="epoch", milestone_steps=(39,), gamma=0.1), 39, 1.0),
        (ScheduleConfig(kind="multistep", moves="epoch", milestone_steps=(39,), gamma=0.1), 40, 0.1),
        (ScheduleConfig(kind="polynomial", moves="epoch", warmup_steps=5), 3, 4 / 5),
        (ScheduleConfig(kind="polynomial", moves="epoch", warmup_steps=5), 9, 1.0),  # the epoch's first after it
    ],
)
def test_rates_follow_their_formulas(config, step, expected):
    assert learning_rate_factor(config, step, steps_per_epoch=10, epochs=10) == pytest.approx(expected)


def groups_by_parameter(config):
    backbone, heads = network(), nn.ModuleList([nn.Linear(2, 5)])
    optimizer, named = build_optimizer(config, backbone, heads)
    return {
        name: group for name, parameter in named.items() for group in optimizer.param_groups
        if any(parameter is member for member in group["params"])
    }  # fmt: skip


def test_norms_and_biases_do_not_decay_and_heads_have_their_rate():
    groups = groups_by_parameter(OptimizerConfig(lr=0.1, head_lr=0.5, weight_decay=0.01))
    assert groups["backbone.0.weight"]["weight_decay"] == 0.01
    assert {groups[f"backbone.{name}"]["weight_decay"] for name in ("0.bias", "1.weight", "1.bias")} == {0.0}
    assert groups["heads.0.weight"]["lr"] == 0.5


def test_the_last_matching_multiplier_counts():
    groups = groups_by_parameter(OptimizerConfig(lr=0.1, lr_multipliers={"*": 0.5, "3.*": 2.0}))
    assert groups["backbone.0.weight"]["lr"] == pytest.approx(0.05)
    assert groups["backbone.3.weight"]["lr"] == pytest.approx(0.2)
    groups = groups_by_parameter(OptimizerConfig(lr=0.1, lr_multipliers={"3": 0.5}))  # a module, as in model.freeze
    assert {groups[f"backbone.3.{name}"]["lr"] for name in ("weight", "bias")} == {0.05}
    with pytest.raises(ConfigError, match="matches no parameter"):
        groups_by_parameter(OptimizerConfig(lr_multipliers={"9.*": 1.0}))


def test_decay_follows_the_use_of_a_parameter_not_its_rank():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, 3, 1, 1))
            self.to_one = nn.Conv2d(3, 1, 1)

        def forward(self, images):
            return self.to_one(images * self.scale)

    backbone = Scaled()
    for decay_norms, expected in ((False, 0.0), (True, 0.01)):
        optimizer, _ = build_optimizer(
            OptimizerConfig(weight_decay=0.01, decay_norms=decay_norms), backbone, nn.ModuleList()
        )
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert decays[id(backbone.to_one.weight)] == 0.01  # a kernel, of the same shape as the scale
        assert decays[id(backbone.scale)] == decays[id(backbone.to_one.bias)] == expected


@pytest.mark.parametrize(
    ("config", "oracle"),
    [
        (OptimizerConfig(kind="sgd", momentum=0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=5e-4)),
        (
            OptimizerConfig(kind="sgd", nesterov=True),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        ),
        (OptimizerConfig(kind="adamw"), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=5e-4)),
        (OptimizerConfig(kind="adam"), lambda p: torch.optim.Adam(p, 0.1, weight_decay=5e-4)),
        (OptimizerConfig(kind="amsgrad"), lambda p: torch.optim.Adam(p, 0.1, weight_decay=5e-4, amsgrad=True)),
        (OptimizerConfig(kind="rmsprop"), lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=5e-4)),
    ],
    ids=["sgd", "nesterov", "adamw", "adam", "amsgrad", "rmsprop"],
)
def test_each_kind_is_the_one_of_torch(config, oracle):
    ours, theirs = (nn.Linear(3, 2, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer, _ = build_optimizer(config.model_copy(update={"lr": 0.1}), ours, nn.ModuleList())
    other = oracle(theirs.parameters())
    for step in range(4):
        images = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        for module, each in ((ours, optimizer), (theirs, other)):
            each.zero_grad()
            module(images).square().sum().backward()
            each.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_nesterov_without_a_momentum_is_refused():
    with pytest.raises(ValueError, match=r"set optimizer\.momentum=0\.9"):
        OptimizerConfig(kind="sgd", nesterov=True, momentum=0.0)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "adam", "amsgrad", "rmsprop"])
def test_state_goes_over_to_another_optimizer(kind):
    config = OptimizerConfig(kind=kind, lr=0.1)
    images = torch.randn(4, 3, 1, 1)

    def step(backbone, optimizer):
        optimizer.zero_grad()
        backbone(images).square().sum().backward()
        set_learning_rates(optimizer, 0.5)
        optimizer.step()

    first, second = network(), network()
    one, named = build_optimizer(config, first, nn.ModuleList())
    step(first, one)
    other, other_named = build_optimizer(config, second, nn.ModuleList())
    second.load_state_dict(first.state_dict())
    load_optimizer_state(other, other_named, optimizer_state(one, named))
    step(first, one)
    step(second, other)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_average_follows_its_formula_and_moves_statistics_too():
    module = network()
    average = WeightAverage(module, 0.75)
    start = {name: value.clone() for name, value in average.tensors.items()}
    with torch.no_grad():
        module[0].weight.add_(4)
        module[1].running_mean.add_(8)
    average.update(module)
    torch.testing.assert_close(average.tensors["0.weight"], start["0.weight"] + 1)
    torch.testing.assert_close(average.tensors["1.running_mean"], start["1.running_mean"] + 2)
    own = module[0].weight.detach().clone()
    with average.applied_to(module):
        torch.testing.assert_close(module[0].weight.detach(), start["0.weight"] + 1)
    assert torch.equal(module[0].weight, own)


def test_the_decay_of_an_average_rises_while_it_warms_up_and_goes_on_where_it_was():
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.5, warmup=True)
    expected = float(average.tensors["weight"])
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(step)
        if step == 5:  # as a resumed run loads it
            saved = {name: value.clone() for name, value in average.state().items()}
            average = WeightAverage(module, 0.5, warmup=True)
            average.load(saved)
        average.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average.tensors["weight"]) == pytest.approx(expected, rel=1e-5)
    assert "steps" not in WeightAverage(module, 0.5).state()


def test_a_loaded_state_has_the_memory_order_of_its_parameter():
    backbone = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    optimizer, named = build_optimizer(OptimizerConfig(), backbone, nn.ModuleList())
    backbone(torch.randn(2, 8, 9, 9)).sum().backward()
    optimizer.step()
    saved = {name: value.contiguous() for name, value in optimizer_state(optimizer, named).items()}
    other, other_named = build_optimizer(OptimizerConfig(), backbone, nn.ModuleList())
    load_optimizer_state(other, other_named, saved)
    for name, value in optimizer_state(other, other_named).items():
        assert torch.equal(value, saved[name]), name
    assert saved["backbone.weight/exp_avg"].stride() != backbone.weight.stride()
    assert other.state[backbone.weight]["exp_avg"].stride() == backbone.weight.stride()
