"""For all tests: torch's ONNX exporter builds its table of operators once a session, and Python collects rarely."""

import copy
import functools
import gc
import sys

import pytest


def pytest_configure():
    """Collects garbage one time where Python would 280 times: an export makes a million objects that all stay.

    At Python's thresholds the collector takes one seventh of the tests' CPU time. Tests of memory collect themselves.
    """
    gc.set_threshold(200_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def exporter_table_built_once():
    """The table depends on the opset alone and takes half a second; every export gets a copy, to which it may add."""
    if "torch" not in sys.modules:  # nothing here exports, and importing it takes longer than most tests
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    built = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(**opset):
        table = copy.copy(built(**opset))
        table.functions = {target: list(found) for target, found in table.functions.items()}
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield
