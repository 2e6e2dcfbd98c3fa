"""BatchNorm counters moved together are where torch's own forward pass leaves them."""

import pytest
import torch
from torch import nn

from rtool.benchmarks.training.step_launches import count_operations
from rtool.finetune.network.batch_counters import counted_together, counting_layers
from rtool.finetune.network.learner import Learner


def network() -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(4)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), frozen, nn.BatchNorm2d(4, momentum=None)]
    return nn.Sequential(*layers, nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, affine=False)).train()


def test_a_forward_pass_leaves_every_buffer_as_torch_does():
    ours, theirs = network(), network()
    layers = counting_layers(ours)
    assert len(layers) == 3
    for step in range(3):
        images = torch.randn(2, 3, 8, 8)
        for each in (ours, theirs):
            each[3].train(step != 1)
        with counted_together(layers):
            got = ours(images)
        torch.testing.assert_close(got, theirs(images), rtol=0, atol=0)
        for (name, mine), (_, its) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0, msg=name)
    assert [int(ours[place].num_batches_tracked) for place in (1, 3, 4, 6)] == [3, 2, 3, 3]


def test_a_learner_counts_and_launches_less():
    learner = Learner(network(), nn.ModuleList([_Sum()]), output=0, autocast=None).train()
    images, labels = torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    together = count_operations(lambda: learner(images, labels))["launches"]
    learner._counting = ()
    apart = count_operations(lambda: learner(images, labels))["launches"]
    assert apart - together == 3 - 1
    assert int(learner.backbone[1].num_batches_tracked) == 4


def test_after_an_error_the_counters_are_back_and_none_has_moved():
    module = network()
    with pytest.raises(RuntimeError), counted_together(counting_layers(module)):
        module(torch.randn(2, 5, 8, 8))
    assert [int(module[place].num_batches_tracked) for place in (1, 3, 6)] == [0, 0, 0]


class _Sum(nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.square().mean()
