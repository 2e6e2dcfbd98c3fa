"""The visibility head, its target and its loss."""

import pytest
import torch

from rtool.finetune.matching.visibility import VisibilityHead, visibility_loss, visibility_target


@pytest.mark.parametrize(("channels", "count"), [(512, 590_209), (256, 295_297)])
def test_the_head_has_the_parameters_of_its_layers(channels, count):
    head = VisibilityHead(channels)
    assert sum(parameter.numel() for parameter in head.parameters()) == count
    visible = head.eval()(torch.randn(2, channels, 7, 7)).detach()
    assert visible.shape == (2, 1, 7, 7)
    assert 0 < float(visible.min()) <= float(visible.max()) < 1


def test_the_target_is_an_average_over_area():
    visible = torch.ones(1, 1, 112, 112)
    visible[:, :, 60:] = 0
    target, known = visibility_target(visible, (7, 7))
    assert target[0, 0, :, 3].tolist() == [1, 1, 1, 0.75, 0, 0, 0]
    assert known.tolist() == [True]


@pytest.mark.parametrize("kind", ["mse", "bce"])
def test_images_of_which_nothing_is_known_do_not_count(kind):
    visible = torch.ones(3, 1, 8, 8)
    visible[1] = torch.nan
    visible[2, :, :4] = 0
    logits = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target, known = visibility_target(visible, (2, 2))
    loss = visibility_loss(logits, target, known, kind)
    kept, wanted = logits[[0, 2]].sigmoid(), torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 1]]).view(2, 1, 2, 2)
    if kind == "mse":
        expected = (kept - wanted).square().mean()
    else:
        expected = -(wanted * kept.log() + (1 - wanted) * (1 - kept).log()).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    assert not logits.grad[1].any()
    nothing = visibility_loss(logits.detach(), *visibility_target(torch.full((3, 1, 8, 8), torch.nan), (2, 2)), kind)
    assert nothing.item() == 0
