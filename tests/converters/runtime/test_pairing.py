"""Tensors of two models are paired by name; a position decides only where there is nothing else to go by."""

import numpy as np
import pytest

from rtool.converters.records.record import TensorSpec
from rtool.converters.runtime.pairing import in_order_of
from rtool.errors import InputError

ONE, TWO = np.zeros(1), np.ones(2)


def specs(*names: str) -> list[TensorSpec]:
    return [TensorSpec(name, "float64", ("N",)) for name in names]


@pytest.mark.parametrize(
    ("given", "wanted", "first"),
    [
        (specs("a", "b"), specs("b", "a"), TWO),
        (specs("a", "b"), specs("a", "b"), ONE),
        (specs("a/b", "c.d"), specs("c_d", "a_b"), TWO),
        (specs("a/b", "a_b"), specs("a_b", "a/b"), TWO),
        ([], specs("b", "a"), ONE),
        (specs("y", "y"), specs("y", "y"), ONE),
    ],
)
def test_the_order_is_that_of_the_names(given, wanted, first):
    assert in_order_of([ONE, TWO], given, wanted, "other", "input")[0] is first


def test_one_tensor_needs_no_name():
    assert in_order_of([ONE], specs("images"), specs("input.1"), "other", "input") == [ONE]


@pytest.mark.parametrize("wanted", [specs("a", "c"), specs("a"), specs("a", "b", "c"), specs("x", "y")])
def test_other_names_are_refused_with_both_lists(wanted):
    with pytest.raises(InputError, match=r"other: has the inputs .*the other model has a, b"):
        in_order_of([ONE, TWO], specs("a", "b"), wanted, "other", "input")
