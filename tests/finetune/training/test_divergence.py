"""A step that was skipped is described by what was not finite in it."""

import torch
from torch import nn

from rtool.finetune.training.divergence import describe_divergence


def described(gradients, losses=(1.0,), shards=()):
    named = []
    for name, gradient in gradients.items():
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor(gradient)
        named.append((name, parameter))
    kinds = [f"loss{index}" for index in range(len(losses))]
    return describe_divergence(named, list(shards), torch.tensor(losses), kinds)


def test_the_parameters_without_a_finite_gradient_are_named_as_freeze_takes_them():
    nan, inf = float("nan"), float("inf")
    text = described({"backbone.conv.weight": [1.0, 2.0], "backbone.p": [nan, 0.0], "heads.0.weight": [inf, 1.0]})
    assert text == "the gradient of 'p', 'heads.0.weight' was not finite, that of 1 other parameters was"


def test_many_are_counted_and_a_loss_is_named():
    nan = float("nan")
    text = described({f"backbone.w{i}": [nan, nan] for i in range(5)}, losses=(1.0, nan))
    assert text == "the loss loss1 was not finite; the gradient of 'w0', 'w1', 'w2' and 2 more was not finite"


def test_a_norm_that_overflows_and_a_shard_are_told_apart():
    assert described({"backbone.a": [3e38, 3e38]}) == "each gradient was finite, but not their common norm"
    assert "'PartialFC shard 1'" in described({}, shards=[None, torch.tensor([float("inf")])])
