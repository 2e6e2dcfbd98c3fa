"""What of a network learns at which epoch, and what is refused because nothing would."""

import pytest
import torch
from torch import nn

from rtool.converters.zoo.registry import build_architecture
from rtool.errors import ConfigError
from rtool.finetune.config.config import ArcFaceLoss, PartialFCLoss, TripletLoss
from rtool.finetune.losses.heads import build_head
from rtool.finetune.network.learner import Learner, check_freezing


def learner(backbone: nn.Module, *losses, autocast=None) -> Learner:
    heads = nn.ModuleList(build_head(loss, 512, 4) for loss in losses or (ArcFaceLoss(kind="arcface"),))
    return Learner(backbone, heads, output=0, autocast=autocast)


def frozen(backbone: nn.Module) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}


def test_the_scale_of_an_iresnets_embedding_stays_fixed_at_every_epoch():
    backbone = build_architecture("iresnet18", input_size=(32, 32))
    trained = learner(backbone)
    for epoch, expected in enumerate([{"features.weight", "prelu.weight"}, {"features.weight"}]):
        trained.freeze({"prelu": 1, "features": 0}, epoch)
        assert frozen(backbone) == expected
    assert trained.train().backbone.features.training  # its shift and its statistics still change


def test_patterns_name_parameters_and_modules():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    trained = learner(backbone)
    trained.freeze({"1": None, "*.bias": 2}, 0)
    assert frozen(backbone) == {"0.bias", "1.weight", "1.bias", "3.bias"}
    assert not trained.train().backbone[1].training
    trained.freeze({"1": None, "*.bias": 2}, 2)
    assert frozen(backbone) == {"1.weight", "1.bias"}


TRIPLET, SHARDED = TripletLoss(kind="triplet"), PartialFCLoss(kind="partial_fc")


@pytest.mark.parametrize(
    ("losses", "autocast", "message"),
    [
        ((TRIPLET,), None, "would train nothing"),
        ((SHARDED, TRIPLET), torch.float16, None),
        ((SHARDED,), torch.bfloat16, None),
        ((ArcFaceLoss(kind="arcface"), TRIPLET), torch.float16, None),
    ],
)
@pytest.mark.parametrize("until", [None, 1])
def test_a_network_frozen_as_a_whole_needs_a_loss_that_learns(losses, autocast, message, until):
    trained = learner(nn.Linear(4, 512), *losses, autocast=autocast)
    if message is None:
        check_freezing(trained, {"*": until})
    else:
        with pytest.raises(ConfigError, match=message):
            check_freezing(trained, {"*": until})
    check_freezing(trained, {"bias": until})
