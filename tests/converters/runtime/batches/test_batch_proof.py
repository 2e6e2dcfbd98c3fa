"""A batch is held to its images one by one; functions in NumPy stand for models."""

import numpy as np
import pytest

from rtool.converters.records.record import TensorSpec
from rtool.converters.runtime.batches.batch_proof import find_batch
from rtool.errors import InputError


class Model:
    """A runner of one function of rows float32 [N, 4]."""

    name, outputs, batch = "model", (), None
    inputs = (TensorSpec("x", "float32", ("n", 4)),)

    def __init__(self, function):
        self._function = function

    def run(self, *arrays):
        return (self._function(arrays[0]),)


def traced_at_4(x):
    """Rolls along the pieces of a batch of 4; each other batch is cut into pieces that are not images."""
    return np.roll(x.reshape(4, -1), 1, axis=1).reshape(x.shape) * 2


def test_a_function_of_single_images_is_proved():
    finding = find_batch(Model(lambda x: x * 2))
    assert finding.proof is not None
    assert finding.proof.sizes == (1, 2, 3, 16)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0, keepdims=True),
        lambda x: x + np.arange(len(x))[:, None],
        lambda x: np.cumsum(x, 0),
        lambda x: x[::-1],
        lambda x: np.where(np.arange(len(x))[:, None] > 7, 0, x),
    ],
    ids=["mean", "a row for each place", "running sum", "turned round", "only eight"],
)
def test_what_mixes_or_places_images_is_not_proved(function):
    finding = find_batch(Model(function))
    assert finding.proof is None
    assert finding.is_wrong


def test_the_batch_that_a_constant_holds_is_the_right_one():
    finding = find_batch(Model(traced_at_4), held={4})
    assert (finding.right_at, finding.is_wrong) == (4, True)
    assert "right at a batch of 4 only" in finding.describe()


def test_what_is_right_up_to_eight_images_says_so():
    assert find_batch(Model(lambda x: np.where(np.arange(len(x))[:, None] > 7, 0, x))).right_at == 8


def test_a_model_that_draws_random_numbers_is_refused_for_that():
    draw = np.random.default_rng(0)
    with pytest.raises(InputError, match="model: the same images get other outputs in each run"):
        find_batch(Model(lambda x: x + draw.standard_normal(x.shape)))


def test_a_model_of_groups_of_images_does_not_take_an_open_batch():
    def of_groups(x):
        if len(x) % 4:
            raise InputError("cannot be cut into groups of 4")
        groups = x.reshape(-1, 4, 4)
        return (groups - groups.mean(1, keepdims=True)).reshape(x.shape)

    finding = find_batch(Model(of_groups))
    assert finding.is_wrong
    assert "a batch of 1 cannot be run (cannot be cut into groups of 4)" in finding.describe()
