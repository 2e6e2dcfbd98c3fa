"""`--probe` and the rule for open sizes."""

import numpy as np
import pytest

from rtool.converters.records.preprocessing import Preprocessing
from rtool.converters.records.record import TensorSpec
from rtool.converters.runtime.probes.given_probes import with_probes
from rtool.converters.runtime.probes.open_sizes import DEFAULT, closed_sizes, describe_open_sizes
from rtool.errors import InputError

SPECS = [TensorSpec("images", "float32", ("N", 3, "h", "w")), TensorSpec("ids", "int64", ("N", 2))]
ARRAYS = [np.zeros((5, 3, 4, 4), np.float32), np.full((5, 2), 7)]


def test_a_probe_replaces_the_random_input_of_that_name_alone():
    images, ids = with_probes(SPECS, ARRAYS, {"ids": np.array([[1, 2], [3, 4]])})
    assert images is ARRAYS[0]
    np.testing.assert_array_equal(ids, [[1, 2], [3, 4], [1, 2], [3, 4], [1, 2]])
    assert with_probes(SPECS, ARRAYS, {"ids": "zeros"})[1].sum() == 0
    assert with_probes(SPECS, ARRAYS, {"ids": "ones"})[1].tolist() == [[1, 1]] * 5


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"id": "zeros"}, r"--probe id: no such input; did you mean ids\?"),
        ({"ids": np.zeros((2, 2))}, "found float64 2 x 2, expected int64 batch x 2"),
        ({"ids": np.zeros((2, 3), np.int64)}, "found int64 2 x 3, expected int64 batch x 2"),
        ({"ids": np.zeros((0, 2), np.int64)}, "found int64 0 x 2, expected int64 batch x 2"),
        ({"ids": np.int64(3).reshape(())}, "found int64 scalar, expected int64 batch x 2"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused_with_both_shapes(probes, message):
    with pytest.raises(InputError, match=message):
        with_probes(SPECS, ARRAYS, probes)


def test_open_sizes_come_from_the_preprocessing_else_from_the_default_and_are_named():
    twice = [SPECS[0], TensorSpec("grid", "float32", ("N", "h", "w", 2, None))]
    sized = Preprocessing(height=32, width=16)
    assert [spec.shape for spec in closed_sizes(twice, sized)] == [("N", 3, 32, 16), ("N", 32, 16, 2, DEFAULT)]
    assert closed_sizes(SPECS)[0].shape == ("N", 3, DEFAULT, DEFAULT)
    assert describe_open_sizes(SPECS, sized) == "images 3 x 32 x 16 (the preprocessing's size)"
    assert describe_open_sizes(SPECS[1:]) == ""
