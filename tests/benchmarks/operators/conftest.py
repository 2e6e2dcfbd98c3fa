"""The examples of every operator, made once."""

import pytest

from rtool.benchmarks.operators.examples import examples_by_operator


@pytest.fixture(scope="session")
def examples():
    return examples_by_operator()
