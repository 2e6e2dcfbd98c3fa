"""Weights of operations by method and guard, against the formulas of their papers."""

import numpy as np
import pytest
import torch

from rtool.finetune.config.search import SearchConfig
from rtool.finetune.search.mixing import (
    auxiliary_factor,
    draw,
    edge_weights,
    guard_penalty,
    operation_shares,
    settled,
    shares,
)

OPERATIONS = ["none", "skip", "sep3"]
ALPHA = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.0, -1.0]])


def search(**fields: object) -> SearchConfig:
    return SearchConfig.model_validate({"operations": OPERATIONS, **fields})


def test_mixed_weights_are_a_softmax_over_operations():
    exponentials = np.exp(ALPHA.numpy())
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    config = search(guard="none")
    drawn = draw(config, (2, 3), 0, 0)
    assert drawn.normal is None
    np.testing.assert_allclose(edge_weights(ALPHA, None, config, 0.5).numpy(), expected, rtol=1e-6)


def test_weights_of_edges_are_a_softmax_over_those_of_a_node():
    config = search(guard="none", nodes=2, edge_weights=True)  # node 0 has edges 0 and 1, node 1 edges 2 to 4
    alpha = torch.linspace(-1, 1, 20).reshape(5, 4).requires_grad_()
    own, beta = np.exp(alpha[:, :3].detach().numpy()), np.exp(alpha[:, 3].detach().numpy())
    edge = np.concatenate([beta[:2] / beta[:2].sum(), beta[2:] / beta[2:].sum()])
    expected = own / own.sum(axis=1, keepdims=True) * edge[:, None]

    weights = shares(alpha, config)

    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(operation_shares(alpha, config).detach().sum(1).numpy(), 1, rtol=1e-6)
    (slope,) = torch.autograd.grad(weights[2].sum(), alpha)  # the weight of edge 2
    np.testing.assert_allclose(slope[2:, 3].numpy(), edge[2] * (np.array([1, 0, 0]) - edge[2:]), atol=1e-6)
    assert not slope[:2].any()
    penalty = guard_penalty((alpha, alpha), search(nodes=2, edge_weights=True), 1.0)
    assert penalty.item() == pytest.approx(50 * np.log(own.sum(axis=1)).mean(), rel=1e-5)


def test_the_likeliest_path_keeps_the_weights_of_its_edges():
    config = search(method="sampled", guard="none", nodes=1, edge_weights=True)
    alpha = torch.tensor([[0.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, np.log(3)]])
    np.testing.assert_allclose(settled(alpha, config).numpy(), [[0, 0.25, 0], [0.75, 0, 0]], rtol=1e-6)


def test_a_sampled_path_is_one_operation_per_edge_with_the_gradient_of_the_soft_value():
    config = search(method="sampled", guard="none", temperature=[2.0, 1.0])
    drawn = draw(config, (2, 3), seed=4, number=7).normal
    alpha = ALPHA.clone().requires_grad_()

    weights = edge_weights(alpha, drawn, config, 0.5)
    (weights[:, 1] * torch.tensor([1.0, 3.0])).sum().backward()

    soft = ((ALPHA.log_softmax(1) + drawn) / 1.5).softmax(1)
    assert weights.tolist() == torch.eye(3)[soft.argmax(1)].tolist()  # exactly 0 and 1
    # d soft_1 / d alpha_k = soft_1 (delta - soft_k) / t, as the log softmax adds a constant per row
    expected = torch.tensor([1.0, 3.0])[:, None] * soft[:, 1:2] * (torch.eye(3)[1] - soft) / 1.5
    torch.testing.assert_close(alpha.grad, expected, rtol=1e-5, atol=1e-7)


def test_paths_are_drawn_in_proportion_to_softmax():
    config = search(method="sampled", guard="none")
    counts = torch.zeros(2, 3)
    for number in range(4000):
        counts += edge_weights(ALPHA, draw(config, (2, 3), 1, number).normal, config, 1.0)
    torch.testing.assert_close(counts / 4000, ALPHA.softmax(1), atol=0.03, rtol=0)  # 3 sd are .024


def test_draws_depend_on_seed_and_number_alone():
    config = search(guard="noise")
    first, again, later = (draw(config, (2, 3), 1, number) for number in (5, 5, 6))
    assert torch.equal(first.normal, again.normal)
    assert torch.equal(first.reduce, again.reduce)
    assert not torch.equal(first.normal, later.normal)
    assert not torch.equal(first.normal, first.reduce)


def test_noise_is_added_to_the_shares_within_its_bounds():
    config = search(guard="noise")
    drawn = torch.stack([draw(config, (2, 3), 0, number).normal for number in range(500)])
    assert 0.0297 < drawn.abs().max() <= 0.03
    torch.testing.assert_close(edge_weights(ALPHA, drawn[0], config, 0.0), ALPHA.softmax(1) + drawn[0])


def test_sigmoid_lets_operations_stand_side_by_side_and_pulls_them_apart():
    config = search(guard="sigmoid", guard_weight=2.0)
    expected = 1 / (1 + np.exp(-ALPHA.numpy()))
    np.testing.assert_allclose(shares(ALPHA, config).numpy(), expected, rtol=1e-6)
    penalty = guard_penalty((ALPHA, ALPHA), config, 0.3)
    assert penalty.item() == pytest.approx(-2 * np.mean((expected - 0.5) ** 2), rel=1e-5)


def test_beta_penalises_logsumexp_and_grows_over_the_search():
    config = search(guard="beta")
    expected = np.log(np.exp(ALPHA.numpy()).sum(axis=1)).mean()
    assert guard_penalty((ALPHA, ALPHA), config, 0.0).item() == 0.0
    assert guard_penalty((ALPHA, ALPHA), config, 0.5).item() == pytest.approx(25 * expected, rel=1e-5)


def test_the_auxiliary_skip_fades_out():
    config = search(guard="auxiliary_skip")
    assert [auxiliary_factor(config, done) for done in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert auxiliary_factor(search(guard="beta"), 0.0) == 0.0
    assert guard_penalty((ALPHA,), config, 0.5) is None
