"""PartialFC against a dense margin softmax: on one, two and three ranks, sampled and not."""

import pytest
import torch
from torch.nn import functional as F

from rtool.finetune.losses.margin_losses import cosine_logits, margin_logits
from rtool.finetune.losses.partial_fc import PartialFC, shard_bounds


def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(12, 4, generator=generator), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0])


def weight():
    return torch.randn(11, 4, generator=torch.Generator().manual_seed(5)) * 0.1


def dense(embeddings, labels, weight):
    logits = margin_logits(cosine_logits(embeddings, weight), labels, scale=16.0)
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_at_rate_one_it_is_the_dense_margin_softmax_and_its_gradient(run_ranks, ranks):
    got = run_ranks("partial_fc", ranks)
    embeddings, labels = batch()
    embeddings.requires_grad_()
    parameter = torch.nn.Parameter(weight())
    loss = dense(embeddings, labels, parameter)
    loss.backward()
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    torch.testing.assert_close(got["before"], weight())
    torch.testing.assert_close(got["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["gradient"], embeddings.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["row_gradient"], parameter.grad, rtol=1e-5, atol=1e-6)
    optimizer.step()
    torch.testing.assert_close(got["after"], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_sampled_steps_leave_other_rows_and_their_momentum_alone(run_ranks, ranks):
    got = run_ranks("partial_fc_sampled", ranks)
    touched = got["touched"].bool()
    assert touched[[0, 5, 10]].all()
    assert 3 <= touched.sum() < 11
    assert torch.equal(got["after"][~touched], got["before"][~touched])
    assert (got["momentum"][~touched] == 0).all()
    assert (got["after"][touched] != got["before"][touched]).any(dim=1).all()
    # the loss is that of the dense head over the sampled classes
    embeddings, labels = batch()[0], torch.tensor([0, 5, 10] * 4)
    positions = torch.cumsum(touched, 0) - 1
    expected = dense(embeddings, positions[labels], weight()[touched])
    torch.testing.assert_close(got["loss"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["partial_fc_two_classes", "partial_fc_two_classes_sampled"])
def test_a_rank_without_classes_takes_part(run_ranks, program):
    got = run_ranks(program, 3)
    embeddings, labels = batch()[0].requires_grad_(), torch.tensor([0, 1] * 6)
    parameter = weight()[:2].requires_grad_()
    loss = dense(embeddings, labels, parameter)
    loss.backward()
    torch.testing.assert_close(got["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["gradient"], embeddings.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["row_gradient"], parameter.grad, rtol=1e-5, atol=1e-6)


def test_a_rank_with_few_classes_samples_one_at_least(run_ranks):
    got = run_ranks("partial_fc_four_classes_sampled", 2)
    touched = got["touched"].bool()
    assert touched[0]
    assert touched[2:].sum() == 1  # none of the second rank's is in the batch, and a tenth of two is none
    embeddings = batch()[0]
    expected = dense(embeddings, torch.zeros(12, dtype=torch.int64), weight()[:4][touched])
    torch.testing.assert_close(got["loss"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_at_a_tenth_rows_rest_unless_sampled_whatever_momentum_and_decay_they_carry(run_ranks, ranks):
    steps = run_ranks("partial_fc_at_a_tenth", ranks)["steps"]  # [step, what, class, dimension]
    rested_with_momentum = 0
    for weight, momentum, gradient, touched, weight_after, momentum_after in steps:
        used = touched[:, 0].bool()
        assert 20 <= used.sum() <= 24
        assert torch.equal(weight_after[~used], weight[~used])
        assert torch.equal(momentum_after[~used], momentum[~used])
        rested_with_momentum += int((momentum[~used] != 0).any(dim=1).sum())
        # the others move as torch.optim.SGD moves a parameter of them alone
        velocity = 0.9 * momentum[used] + gradient[used] + 0.01 * weight[used]
        torch.testing.assert_close(momentum_after[used], velocity)
        torch.testing.assert_close(weight_after[used], weight[used] - 0.1 * velocity)
    assert rested_with_momentum > 20


def test_shards_of_three_ranks_are_loaded_by_one():
    whole, momentum = torch.randn(11, 4), torch.randn(11, 4)
    shards = [
        {"weight": whole[slice(*shard_bounds(11, n, 3))], "momentum": momentum[slice(*shard_bounds(11, n, 3))]}
        for n in range(3)
    ]
    head = PartialFC(4, 11)
    head.load_shards(shards)
    assert torch.equal(head.weight, whole)
    assert torch.equal(head.state["momentum"], momentum)


@pytest.mark.parametrize(("classes", "shards"), [(11, 3), (10, 4), (2, 2), (7, 1)])
def test_shard_bounds_cover_all_classes_once_and_the_first_hold_more(classes, shards):
    bounds = [shard_bounds(classes, n, shards) for n in range(shards)]
    assert [c for start, end in bounds for c in range(start, end)] == list(range(classes))
    sizes = [end - start for start, end in bounds]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_memory_of_a_sampled_step_follows_the_sample_not_the_classes():
    head = PartialFC(8, 1000, rate=0.1)
    head(torch.randn(4, 8, requires_grad=True), torch.arange(4)).backward()
    assert head.gradient().shape == (100, 8)
    assert not list(head.parameters())
