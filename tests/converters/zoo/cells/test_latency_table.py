"""Measured times of operations: where they are, what they add up to, and files that are no table."""

import json

import numpy as np
import pytest
import torch

from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.latency_table import LatencyTable, places, read_latency_table
from rtool.converters.zoo.cells.parsing import parse_genotype
from rtool.converters.zoo.cells.searched import SearchedNetwork
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.errors import InputError

SPACE = SearchSpace(nodes=2, channels=4, operations=("none", "skip", "sep3", "part"))
SIZE = (61, 30)


def table(space: SearchSpace = SPACE, size: tuple[int, int] = SIZE) -> LatencyTable:
    """Made up times, all different."""
    generator = np.random.default_rng(0)
    found = sorted({place for cell in places(space, *size) for place in cell})
    times = {
        (operation, place): 0.0 if operation == "none" else float(generator.uniform(0.01, 1))
        for place in found
        for operation in space.operations
    }
    return LatencyTable(space, *size, 0.25, times, {"machine": "none"})


def test_places_are_where_the_network_computes():
    network = SearchedNetwork(genotype=random_genotype(SPACE, np.random.default_rng(1)).to_json(), embedding_size=4)
    seen = {}
    for number, cell in enumerate(network.cells):
        for node, operations in enumerate(cell.nodes):
            for operation, (_, state) in zip(operations, _edges(network, number)[node], strict=True):
                edge = SPACE.node_edges[node][state]
                operation.register_forward_hook(
                    lambda _, inputs, out, at=(number, edge): seen.update({at: (inputs[0].shape[1:], out.shape[2:])})
                )
    network(torch.randn(2, 3, *SIZE))
    assert seen
    for (number, edge), (inside, outside) in seen.items():
        place = places(SPACE, *SIZE)[number][edge]
        assert tuple(inside) == (place.channels, place.height, place.width)
        assert tuple(outside) == (-(-place.height // place.stride), -(-place.width // place.stride))


def _edges(network, number):
    found = random_genotype(SPACE, np.random.default_rng(1))
    return found.reduce if SPACE.plans[number].reduces else found.normal


def test_expected_latency_is_the_sum_over_edges_and_operations():
    made, shares = table(), np.random.default_rng(2).random((2, SPACE.edges, 4))
    expected = 0.25
    for plan, cell in zip(SPACE.plans, places(SPACE, *SIZE), strict=True):
        for edge, place in enumerate(cell):
            for index, operation in enumerate(SPACE.operations):
                expected += shares[int(plan.reduces), edge, index] * made.milliseconds[operation, place]
    assert made.expected_ms(*shares) == pytest.approx(expected)
    tensors = [torch.from_numpy(each).requires_grad_() for each in shares]
    made.expected_ms(*tensors).backward()
    assert np.allclose(tensors[0].grad.numpy(), made.edge_times[0])
    assert np.allclose(tensors[1].grad.numpy(), made.edge_times[1])


def test_a_cost_alone_drives_the_weights_to_the_fastest_cell():
    made = table(SearchSpace(nodes=2, channels=4, operations=("skip", "sep3", "part")))
    alphas = [torch.zeros(5, 3, requires_grad=True) for _ in range(2)]
    optimiser = torch.optim.Adam(alphas, lr=1.0)
    for _ in range(60):
        optimiser.zero_grad()
        made.expected_ms(*(alpha.softmax(1) for alpha in alphas)).log().backward()
        optimiser.step()
    least = 0.25 + sum(times.min(axis=1).sum() for times in made.edge_times)
    assert made.expected_ms(*(alpha.detach().softmax(1).numpy() for alpha in alphas)) == pytest.approx(least, rel=0.02)
    found = parse_genotype(made.space, *(alpha.detach().numpy() for alpha in alphas))
    best = [times.argmin(axis=1) for times in made.edge_times]
    for nodes, choice in zip((found.normal, found.reduce), best, strict=True):
        for numbers, edges in zip(made.space.node_edges, nodes, strict=True):
            assert all(made.space.operations[choice[numbers[state]]] == operation for operation, state in edges)


def test_a_discrete_network_costs_its_own_operations():
    made, found = table(), random_genotype(SPACE, np.random.default_rng(3))
    expected = made.rest_ms
    for plan, cell in zip(SPACE.plans, places(SPACE, *SIZE), strict=True):
        for node, edges in enumerate(found.reduce if plan.reduces else found.normal):
            for operation, state in edges:
                expected += made.milliseconds[operation, cell[SPACE.node_edges[node][state]]]
    assert made.predicted_ms(found) == pytest.approx(expected)


def test_a_file_reads_back(tmp_path):
    made = table()
    made.write(tmp_path / "costs.json")
    found = read_latency_table(tmp_path / "costs.json")
    assert (found.space.operations, found.height, found.width) == (SPACE.operations, *SIZE)
    assert found.predicted_ms(random_genotype(SPACE, np.random.default_rng(0))) == pytest.approx(
        made.predicted_ms(random_genotype(SPACE, np.random.default_rng(0))), abs=1e-4
    )


def test_a_table_serves_fewer_operations_and_no_other_space():
    made = table()
    fewer = SearchSpace(nodes=2, channels=4, operations=("none", "sep3"), embedding_size=8)
    assert made.of_operations(fewer).edge_times[0].shape == (5, 2)
    with pytest.raises(InputError, match=r"channels 4 instead of 8; no operation dil3; make it with `rtool bench oper"):
        made.check_fits(SearchSpace(nodes=2, channels=8, operations=("none", "dil3")), *SIZE)
    with pytest.raises(InputError, match="height 61 instead of 64"):
        made.check_fits(SPACE, 64, 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(schema=2), "latency table of schema 2"),
        (lambda content: content.pop("rest_ms"), "not a latency table .KeyError: 'rest_ms'"),
        (lambda content: content.update(rest_ms=-1), "expected milliseconds, got -1"),
        (lambda content: content["rows"].pop(), r"has no time of .* at Place"),
        (lambda content: content["rows"].append(5), "not a latency table"),
        (lambda content: content["space"].update(cells=1), "cells takes a whole number from 3 to 100"),
        (lambda content: content["rows"][0].update(ms="fast"), "expected milliseconds, got 'fast'"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, change, message):
    table().write(tmp_path / "costs.json")
    content = json.loads((tmp_path / "costs.json").read_text())
    change(content)
    (tmp_path / "costs.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_latency_table(tmp_path / "costs.json")


def test_missing_files_and_text_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such latency table"):
        read_latency_table(tmp_path / "costs.json")
    (tmp_path / "costs.json").write_text("[1]")
    with pytest.raises(InputError, match="not a latency table"):
        read_latency_table(tmp_path / "costs.json")
