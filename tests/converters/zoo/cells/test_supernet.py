"""The supernet: mixed sums, paths left out, partial channels, the auxiliary skip, gradients to the weights."""

import numpy as np
import pytest
import torch

from rtool.converters.zoo.cells.parsing import genotype_weights, parse_genotype
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.converters.zoo.cells.supernet import MixedEdge, Supernet
from rtool.errors import InputError

SPACE = SearchSpace(nodes=2, channels=4, embedding_size=8)


def weights(space: SearchSpace, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (space.edges, len(space.operations))
    return [torch.rand(shape, generator=generator).softmax(1).requires_grad_() for _ in range(2)]


def test_an_edge_is_the_weighted_sum_of_its_operations():
    torch.manual_seed(0)
    edge = MixedEdge(SPACE.operations, 4, 2, share=1, auxiliary=False)
    images, shares = torch.randn(3, 4, 7, 5), torch.rand(7)
    expected = sum(share * operation(images) for share, operation in zip(shares, edge.operations, strict=True))
    torch.testing.assert_close(edge(images, shares, [True] * 7, 0.0), expected)


def test_every_weight_of_an_operation_that_runs_has_its_gradient():
    torch.manual_seed(0)
    network = Supernet(SPACE).double()
    images = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    shares = [each.detach().double().requires_grad_() for each in weights(SPACE)]
    direction = torch.randn(3, 8, dtype=torch.float64)

    def loss(normal: torch.Tensor, reduce: torch.Tensor) -> torch.Tensor:
        return (network(images, normal, reduce) * direction).sum()

    loss(*shares).backward()
    assert shares[0].grad[:, 0].eq(0).all()  # none adds zeros, whatever its weight
    assert shares[0].grad[:, 1:].ne(0).all()
    for place in ((0, 4), (3, 6), (1, 2)):
        moved = [each.detach().clone() for each in shares]
        moved[1][place] += 1e-6
        rise = loss(*moved).item()
        moved[1][place] -= 2e-6
        slope = (rise - loss(*moved).item()) / 2e-6
        assert slope == pytest.approx(shares[1].grad[place].item(), rel=1e-4, abs=1e-7)


def test_operations_of_weight_zero_are_not_computed():
    torch.manual_seed(0)
    network = Supernet(SPACE)
    genotype = parse_genotype(SPACE, *(each.detach().numpy() for each in weights(SPACE)))
    ran = set()
    for name, module in network.named_modules():
        if ".operations." in name and name.split(".operations.")[1].isdigit():
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
    network(torch.randn(2, 3, 64, 32), *map(torch.from_numpy, genotype_weights(genotype)))
    expected = set()
    for number, plan in enumerate(SPACE.plans):
        for edges, node in zip(SPACE.node_edges, genotype.reduce if plan.reduces else genotype.normal, strict=True):
            for operation, state in node:
                index = SPACE.operations.index(operation)
                expected.add(f"cells.{number}.edges.{edges[state]}.operations.{index}")
    assert ran == expected


def test_a_cell_without_any_weight_gives_zeros_and_the_bias_as_embedding():
    network = Supernet(SPACE)
    nothing = torch.zeros(SPACE.edges, 7)
    only_none = nothing.clone()
    only_none[:, 0] = 1
    for shares in (nothing, only_none):
        embeddings = network(torch.randn(2, 3, 64, 32), shares, shares)
        torch.testing.assert_close(embeddings, network.head.fc.bias.expand(2, -1))


@pytest.mark.parametrize("stride", [1, 2])
def test_partial_channels_pass_the_others_by_and_shuffle(stride):
    torch.manual_seed(0)
    edge = MixedEdge(("none", "skip", "sep3"), 8, stride, share=4, auxiliary=False)
    images, shares = torch.randn(2, 8, 7, 5), torch.rand(3)
    out = edge(images, shares, [True] * 3, 0.0)
    passed = images[:, 2:] if stride == 1 else torch.nn.functional.max_pool2d(images[:, 2:], 2, ceil_mode=True)
    mixed = shares[1] * edge.operations[1](images[:, :2]) + shares[2] * edge.operations[2](images[:, :2])
    joined = torch.cat([mixed, passed], dim=1)
    order = [group * 2 + place for place in range(2) for group in range(4)]
    torch.testing.assert_close(out, joined[:, order])
    assert torch.equal(edge(images, shares, [True, False, False], 0.0)[:, order.index(5)], passed[:, 3])
    assert edge(images, shares, [False] * 3, 0.0) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_the_auxiliary_skip_is_added_in_proportion_and_can_be_left_out(stride):
    torch.manual_seed(0)
    edge = MixedEdge(("none", "sep3"), 4, stride, share=1, auxiliary=True)
    images, shares = torch.randn(2, 4, 6, 6), torch.tensor([0.3, 0.7])
    plain = edge(images, shares, [True, True], 0.0)
    torch.testing.assert_close(edge(images, shares, [True, True], 0.5), plain + 0.5 * edge.auxiliary(images))


@pytest.mark.parametrize("options", [{}, {"share": 2}, {"auxiliary_skip": True}])
def test_a_whole_supernet_trains(options):
    torch.manual_seed(0)
    network, shares = Supernet(SPACE, **options), weights(SPACE)
    network(torch.randn(2, 3, 64, 32), *shares, 0.5).square().sum().backward()
    assert all(each.grad.isfinite().all() and each.grad.ne(0).any() for each in shares)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_wrong_weights_and_channels_are_refused():
    with pytest.raises(InputError, match=r"weights of the reduce cell: expected \[5, 7\].*got \[5, 6\]"):
        Supernet(SPACE)(torch.zeros(1, 3, 64, 32), torch.zeros(5, 7), torch.zeros(5, 6))
    with pytest.raises(InputError, match=r"1/4 of 4 channels is not a whole number from 2 on; use channels of a mult"):
        Supernet(SPACE, share=4)


def test_the_supernet_takes_what_numpy_made():
    genotype = parse_genotype(SPACE, np.eye(5, 7, 2), np.eye(5, 7, 3))
    normal, reduce = genotype_weights(genotype)
    assert normal.sum() == reduce.sum() == 4
    assert normal[0].tolist() == [0, 0, 1, 0, 0, 0, 0]
