"""Names in a configuration mean what Triton's PyTorch back end takes them for; the cases follow its source."""

import pytest

from rtool.converters.files.torch_archives.torch_names import meant_positions, served_names


@pytest.mark.parametrize(
    ("names", "arguments", "meant"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),  # all are arguments
        (["INPUT__1", "INPUT__0"], ["a", "b"], [1, 0]),
        (["a__x", "b__0"], ["a", "b"], [0, 1]),  # one is neither: the order counts
        (["a", "x"], ["b", "a"], [0, 1]),
        (["b", "a"], [], [0, 1]),  # outputs have no arguments
        (["out__1", "out__0"], [], [1, 0]),
        (["out__1", "embedding"], [], [0, 1]),
        (["x__7__0"], [], [0]),  # what follows the first __ is no number
        (["x__"], [], [0]),
    ],
)
def test_names_mean_positions(names, arguments, meant):
    assert meant_positions(names, arguments) == meant


def test_names_that_would_mean_another_position_are_not_served():
    assert served_names(["images"], "INPUT", ["x"]) == ["images"]
    assert served_names(["b", "a"], "INPUT", ["a", "b"]) == ["INPUT__0", "INPUT__1"]
    assert served_names(["feature__512"], "OUTPUT") == ["OUTPUT__0"]
    assert served_names(["same", "same"], "OUTPUT") == ["OUTPUT__0", "OUTPUT__1"]
