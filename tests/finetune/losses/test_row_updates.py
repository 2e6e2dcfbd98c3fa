"""Row-wise optimizers against torch.optim: all rows at every step, and rows that are used now and then."""

import pytest
import torch

from rtool.errors import ConfigError
from rtool.finetune.config.optimization import OptimizerConfig
from rtool.finetune.losses.partial_fc import PartialFC
from rtool.finetune.losses.row_updates import row_state, update_rows

CONFIGS = [
    OptimizerConfig(kind="sgd", momentum=0.9, weight_decay=0.01),
    OptimizerConfig(kind="sgd", momentum=0.9, nesterov=True, weight_decay=0.01),
    OptimizerConfig(kind="sgd", momentum=0.0, weight_decay=0.0),
    OptimizerConfig(kind="adamw", weight_decay=0.1),
    OptimizerConfig(kind="adam", weight_decay=0.1),
    OptimizerConfig(kind="amsgrad", weight_decay=0.1),
    OptimizerConfig(kind="rmsprop", momentum=0.9, weight_decay=0.1),
    OptimizerConfig(kind="rmsprop", momentum=0.0, weight_decay=0.0),
]
IDS = [f"{config.kind} {'nesterov' if config.nesterov else config.momentum}" for config in CONFIGS]


def torch_optimizer(config, parameter):
    decay, momentum = config.weight_decay, config.momentum
    match config.kind:
        case "sgd":
            return torch.optim.SGD([parameter], 0.05, momentum=momentum, nesterov=config.nesterov, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW([parameter], 0.05, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop([parameter], 0.05, momentum=momentum, weight_decay=decay)
    return torch.optim.Adam([parameter], 0.05, amsgrad=config.kind == "amsgrad", weight_decay=decay)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_each_row_moves_as_it_would_alone_under_torch(config):
    """Three rows used at 12, 5 and 0 of the steps, each beside a parameter of torch that steps with it."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    rows, state = start.clone(), row_state(config, start)
    alone = [start[n : n + 1].clone().requires_grad_() for n in range(3)]
    optimizers = [torch_optimizer(config, parameter) for parameter in alone]
    for step in range(12):
        used = [0, 1] if step % 5 in (0, 3) else [0]
        gradient = torch.randn(len(used), 4, generator=generator, dtype=torch.float64)
        chosen, its_state = rows[used], {name: value[used] for name, value in state.items()}
        update_rows(config, chosen, gradient, its_state, lr=0.05)
        rows[used] = chosen
        for name, value in its_state.items():
            state[name][used] = value
        for place, number in enumerate(used):
            alone[number].grad = gradient[place : place + 1].clone()
            optimizers[number].step()
    torch.testing.assert_close(rows, torch.cat(alone).detach(), rtol=1e-9, atol=1e-12)
    assert torch.equal(rows[2], start[2])


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_partial_fc_updates_the_rows_it_used_by_its_optimizer(rate):
    torch.manual_seed(0)
    config = OptimizerConfig(kind="adamw", weight_decay=0.1)
    head = PartialFC(4, 20, rate=rate, scale=16.0, optimizer=config)
    before = head.weight.clone()
    head(torch.randn(6, 4, requires_grad=True), torch.arange(6)).backward()
    used = torch.arange(20) if head.rows_used is None else head.rows_used
    gradient = head.gradient().clone()
    dense = before[used].clone().requires_grad_()
    dense.grad = gradient
    torch.optim.AdamW([dense], 0.05, weight_decay=0.1).step()
    head.step(0.05)
    torch.testing.assert_close(head.weight[used], dense.detach())
    resting = torch.ones(20, dtype=torch.bool)
    resting[used] = False
    assert torch.equal(head.weight[resting], before[resting])
    assert head.state["steps"].squeeze(1).tolist() == (~resting).float().tolist()


def test_a_shard_goes_on_where_it_was_and_one_of_another_optimizer_is_refused():
    config = OptimizerConfig(kind="amsgrad")
    first, second = (PartialFC(4, 11, rate=0.5, optimizer=config, seed=3) for _ in range(2))

    def steps(head, count):
        generator = torch.Generator().manual_seed(count)
        for _ in range(count):
            head(torch.randn(4, 4, generator=generator, requires_grad=True), torch.arange(4)).backward()
            head.step(0.1)

    steps(first, 3)
    second.load_shards([first.shard_state()])
    steps(first, 2)
    steps(second, 2)
    assert torch.equal(first.weight, second.weight)
    with pytest.raises(ConfigError, match=r"optimizer\.kind amsgrad: the checkpoint's partial_fc has no exp_avg"):
        second.load_shards([PartialFC(4, 11).shard_state()])
