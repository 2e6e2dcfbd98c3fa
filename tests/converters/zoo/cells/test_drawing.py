"""Random genotypes: of the space, different by seed, uniform over operations, never none."""

from collections import Counter

import numpy as np

from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.genotype import genotype_of_json
from rtool.converters.zoo.cells.space import SearchSpace


def test_random_genotypes_are_genotypes_and_repeat_by_seed():
    space = SearchSpace(nodes=3, channels=4)
    drawn = [random_genotype(space, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert genotype_of_json(drawn[0].to_json(), "drawn") == drawn[0]


def test_operations_and_states_are_drawn_evenly():
    space, generator = SearchSpace(nodes=2), np.random.default_rng(0)
    operations, states = Counter(), Counter()
    for _ in range(400):
        nodes = random_genotype(space, generator).normal
        operations.update(operation for edges in nodes for operation, _ in edges)
        states.update(state for _, state in nodes[1])
    assert set(operations) == set(space.operations) - {"none"}
    # 1600 draws among 6, and 800 among 3: five standard deviations of a binomial count
    assert all(abs(count - 1600 / 6) < 75 for count in operations.values())
    assert all(abs(count - 800 / 3) < 70 for count in states.values())
