"""What is made before it is asked for."""

import pytest

from rtool.converters.runtime.calling.ahead import ahead


@pytest.mark.parametrize(
    ("window", "left", "made"),
    [
        (1, None, [1, 2, 3, 4, 5]),
        (1, 4, [1, 2, 3, 4, 5]),
        (2, None, [2, 3, 4, 5, 5]),
        (4, None, [4, 5, 5, 5, 5]),
        (4, 2, [4, 4, 5, 5, 5]),
        (3, 0, [3, 3, 3, 5, 5]),
        (9, 2, [5, 5, 5, 5, 5]),
    ],
)
def test_a_window_is_made_first_and_more_when_few_are_left(window, left, made):
    items = []

    def numbers():
        for number in range(1, 6):
            items.append(number)
            yield number

    seen = [(number, len(items)) for number in ahead(numbers(), window, left)]
    assert seen == list(zip(range(1, 6), made, strict=True))


def test_nothing_is_handed_out_of_nothing():
    assert list(ahead([], 8)) == []
