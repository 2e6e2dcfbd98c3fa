"""Parity of two runners: what is compared, and what is refused."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from rtool.benchmarks.compare import compare_runners
from rtool.benchmarks.runners import common_batch, random_inputs
from rtool.converters.record import TensorSpec
from rtool.errors import InputError


@dataclass
class Scale:
    """A runner that multiplies its input."""

    factor: float
    name: str = "scale"
    batch: int | None = None
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", ("N", 3)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", ("N", 3)),)
    seen: list = field(default_factory=list)

    def run(self, *arrays):
        self.seen.append(arrays)
        return (arrays[0].astype(np.float64) * self.factor,)


def compare(a: Scale, b: Scale, **tolerances):
    return compare_runners(a, b, random_inputs(a.inputs, 4), described="random", **tolerances)


def test_equal_models_pass_and_both_saw_the_same_input():
    a, b = Scale(2.0), Scale(2.0)
    report = compare(a, b, max_rel=0.0)
    assert report.passed
    np.testing.assert_array_equal(a.seen[0][0], b.seen[0][0])


def test_a_model_off_by_a_tenth_fails_on_error_but_not_on_cosine():
    assert not compare(Scale(1.0), Scale(1.1), max_rel=0.05).passed
    assert compare(Scale(1.0), Scale(1.1), min_cosine=0.9999).passed


def test_a_half_precision_model_is_given_half_precision():
    half = Scale(1.0, inputs=(TensorSpec("x", "float16", ("N", 3)),))
    compare(Scale(1.0), half)
    assert half.seen[0][0].dtype == np.float16


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((TensorSpec("x", "uint8", ("N", 3)),), "preprocessing embedded"),
        ((TensorSpec("x", "float32", ("N", 4)),), "same input"),
        ((), "takes 0 inputs"),
    ],
)
def test_models_with_other_inputs_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        compare(Scale(1.0), Scale(1.0, inputs=inputs))


def test_a_baked_batch_wins_and_two_different_ones_are_refused():
    assert common_batch([Scale(1), Scale(1, batch=16)], 2) == 16
    assert common_batch([Scale(1), Scale(1)], 2) == 2
    with pytest.raises(InputError, match="different batches"):
        common_batch([Scale(1, batch=1), Scale(1, batch=16)], 2)


def test_random_inputs_are_seeded_and_need_known_sizes():
    spec = TensorSpec("x", "float32", ("N", 3, 2))
    np.testing.assert_array_equal(random_inputs([spec], 2, 5)[0], random_inputs([spec], 2, 5)[0])
    with pytest.raises(InputError, match="'x' has shape"):
        random_inputs([TensorSpec("x", "float32", ("N", "H"))], 2)
