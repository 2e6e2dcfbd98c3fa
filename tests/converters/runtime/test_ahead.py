"""What is made before it is asked for."""

import pytest

from rtool.converters.runtime.calling.ahead import ahead


@pytest.mark.parametrize(("window", "made"), [(1, [1, 2, 3, 4, 5]), (2, [2, 3, 4, 5, 5]), (4, [4, 4, 5, 5, 5])])
def test_a_window_is_made_first_and_refilled_when_half_is_left(window, made):
    items = []

    def numbers():
        for number in range(1, 6):
            items.append(number)
            yield number

    seen = [(number, len(items)) for number in ahead(numbers(), window)]
    assert seen == list(zip(range(1, 6), made, strict=True))


def test_nothing_is_handed_out_of_nothing():
    assert list(ahead([], 8)) == []
