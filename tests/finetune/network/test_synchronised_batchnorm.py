"""BatchNorm over two processes against one process with the whole batch; the formula against torch's own layer."""

import pytest
import torch
from torch import nn

from rtool.finetune.network import synchronised_batchnorm
from rtool.finetune.network.synchronised_batchnorm import synchronised


@pytest.mark.parametrize("program", ["synchronised_batchnorm", "synchronised_and_checkpointed"])
def test_two_processes_train_as_one_with_the_whole_batch(run_ranks, program):
    whole, halves = run_ranks(program, 1), run_ranks(program, 2)
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        # sums of float32 in another order
        torch.testing.assert_close(halves[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_without_it_two_processes_differ(run_ranks):
    whole, halves = run_ranks("separate_batchnorm", 1), run_ranks("separate_batchnorm", 2)
    assert not torch.allclose(whole["backbone.1.running_var"], halves["backbone.1.running_var"], rtol=1e-3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(5), (4, 5, 3, 2)),
        (nn.BatchNorm1d(5, momentum=None), (6, 5)),
        (nn.BatchNorm1d(5, affine=False), (6, 5, 3)),
        (nn.BatchNorm2d(5, track_running_stats=False), (4, 5, 3, 2)),
    ],
)
def test_one_rank_gives_what_torch_gives(monkeypatch, layer, shape):
    monkeypatch.setattr(synchronised_batchnorm, "world_size", lambda: 2)  # and the sums are those of one rank
    layer = layer.double()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for context in (torch.enable_grad(), synchronised(layer)):
        for each in layer.buffers():
            each.zero_()
        layer.zero_grad()
        x = images.clone().requires_grad_()
        with context:
            y = layer(x)
        (y * weights).sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters()]
        results.append([y.detach(), x.grad, *gradients, *(b.clone() for b in layer.buffers())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert "forward" not in vars(layer)


def test_layers_in_eval_mode_keep_their_own_forward(monkeypatch):
    monkeypatch.setattr(synchronised_batchnorm, "world_size", lambda: 2)
    layer = nn.BatchNorm2d(3).eval()
    with synchronised(layer):
        assert "forward" not in vars(layer)
