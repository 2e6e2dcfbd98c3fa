"""What the chosen output does not depend on is held, and then several processes train like one."""

from pathlib import Path

import torch
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.network.networks import Network
from rtool.finetune.network.reach import hold_unreached


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embedding = nn.Linear(4, 8)
        self.classes = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embedding(self.body(images))
        return embedding, self.classes(embedding)


def network() -> Network:
    return Network("two", TwoOutputs(), Preprocessing(16, 8), 8, lambda path, module, link: Path(path))


def test_layers_behind_the_embedding_are_held():
    made = network()
    assert hold_unreached(made, 0) == ["classes.weight", "classes.bias"]
    held = [name for name, parameter in made.module.named_parameters() if not parameter.requires_grad]
    assert held == ["classes.weight", "classes.bias"]


def test_nothing_else_changes():
    made = network()
    before = {name: value.clone() for name, value in made.module.state_dict().items()}
    state = torch.get_rng_state()
    assert hold_unreached(made, 1) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in made.module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in made.module.parameters())


def test_a_network_that_learns_nothing_is_left_alone():
    made = network()
    made.module.requires_grad_(False)
    assert hold_unreached(made, 0) == []
