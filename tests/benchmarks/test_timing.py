"""Timing in turns: order, counts and ratios, with calls whose cost is known."""

import time

import numpy as np
import pytest

from rtool.benchmarks import timing
from rtool.errors import InputError


def test_calls_take_turns_after_the_warm_up():
    log: list[str] = []
    times = timing.time_in_turns([lambda: log.append("a"), lambda: log.append("b")], rounds=3, warmup=2)
    assert "".join(log) == "aabb" + "ababab"
    assert [len(row) for row in times] == [3, 3]


def test_times_are_milliseconds():
    (times,) = timing.time_in_turns([lambda: time.sleep(0.02)], rounds=3, warmup=0)
    assert (times >= 20).all()


def test_the_ratio_is_computed_per_round():
    first = np.array([1.0, 10.0, 100.0])
    row = timing._row("slower", first * 2, first, batch=4)
    assert (row.ratio, row.ratio_low, row.ratio_high) == (2.0, 2.0, 2.0)
    assert row.samples_per_second == pytest.approx(1000 * 4 / 20)


def test_two_rounds_are_too_few_for_an_interval():
    with pytest.raises(InputError, match="at least 3 rounds"):
        timing.latency(["model.onnx"], rounds=2)


def test_the_same_reference_twice_gets_two_names():
    assert timing._distinct(["a", "b", "a"]) == ["a (1)", "b", "a (3)"]
