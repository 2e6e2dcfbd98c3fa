"""The space: edges, reduction cells, channels, the lowest image, and what it refuses."""

import pytest
import torch

from rtool.converters.zoo.cells.space import SearchSpace
from rtool.converters.zoo.cells.supernet import Supernet
from rtool.errors import InputError


def test_edges_are_numbered_node_by_node():
    space = SearchSpace(nodes=3)
    assert space.edges == 9
    assert [list(edges) for edges in space.node_edges] == [[0, 1], [2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(("cells", "reductions"), [(3, [1, 2]), (4, [1, 2]), (6, [2, 4]), (8, [2, 5])])
def test_reductions_lie_at_a_third_and_two_thirds(cells, reductions):
    plans = SearchSpace(cells=cells, channels=4).plans
    assert [number for number, plan in enumerate(plans) if plan.reduces] == reductions
    assert plans[-1].channels == 16
    assert [plan.follows_reduction for plan in plans] == [False, *(plan.reduces for plan in plans[:-1])]


@pytest.mark.parametrize("stem", ["stride4", "stride1"])
def test_the_lowest_image_is_the_lowest_that_runs(stem):
    space = SearchSpace(nodes=2, channels=2, embedding_size=4, stem=stem)
    network, weights = Supernet(space), torch.ones(space.edges, 7)
    least = space.smallest_height
    space.check_height(least)
    assert network(torch.randn(2, 3, least, 8), weights, weights).shape == (2, 4)
    with pytest.raises(InputError, match=f"use images at least {least} high"):
        space.check_height(least - 1)
    with pytest.raises(InputError, match="here the features are 3 high"):
        network(torch.randn(2, 3, least - 1, 8), weights, weights)
    assert SearchSpace(operations=("none", "sep3"), stem=stem).smallest_height == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 2}, "cells takes a whole number from 3 to 100, because two of them are reduction cells, got 2"),
        ({"nodes": 0}, "nodes takes a whole number from 1 to 16, got 0"),
        ({"channels": True}, "channels takes a whole number from 2 to 1024, got True"),
        ({"stem": "stride2"}, "unknown stem 'stride2'; did you mean stride4 or stride1"),
        ({"operations": ("none", "sep5")}, "unknown operation 'sep5'; did you mean sep3"),
        ({"operations": ("sep3", "sep3")}, "named twice"),
        ({"operations": ("none",)}, "needs an operation other than none"),
    ],
)
def test_values_outside_the_space_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SearchSpace(**options)
