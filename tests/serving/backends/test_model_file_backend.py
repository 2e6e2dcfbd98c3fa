"""What the back ends for model files share, in this process, with a module that stands in for Triton's."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rtool

BACKENDS = Path(rtool.__file__).resolve().parent / "serving/backends"


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    @staticmethod
    def from_dlpack(name, lent):
        return Tensor(name, np.from_dlpack(lent))

    def name(self):
        return self._name

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Request:
    def __init__(self, array, *, cancelled=False):
        self._array, self._cancelled = array, cancelled

    def inputs(self):
        return [Tensor("x", self._array)]

    def requested_output_names(self):
        return ("y",)

    def is_cancelled(self):
        return self._cancelled


@pytest.fixture
def backend(monkeypatch):
    """One that doubles its input and counts its runs, of a model with a fixed batch."""
    metric = SimpleNamespace(increment=lambda _: None)
    utils = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(tensors=output_tensors, error=error),
        MetricFamily=type(
            "MetricFamily",
            (),
            {"COUNTER": 0, "__new__": lambda _, **__: SimpleNamespace(Metric=lambda labels: metric)},
        ),
        TritonError=type("TritonError", (), {"INVALID_ARG": 3, "UNKNOWN": 0, "__init__": lambda self, *what: None}),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    for name in ("triton_tensors", "model_file_backend"):
        spec = importlib.util.spec_from_file_location(name, BACKENDS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)

    class Doubling(module.ModelFileBackend):
        runs = 0

        def compute(self, arrays):
            self.runs += 1
            return [arrays["x"] * 2]

    made = Doubling()
    tensor = {"data_type": "TYPE_FP32"}
    made.begin("m", {"max_batch_size": 0, "input": [{"name": "x", **tensor}], "output": [{"name": "y", **tensor}]})
    return made


def test_what_nobody_waits_for_any_more_is_not_computed(backend):
    """Triton queues the requests of a fixed batch without end, those whose clients gave up among them."""
    rows = np.ones((2, 2), np.float32)
    given = [Request(rows, cancelled=True), Request(rows, cancelled=True), Request(rows)]
    responses = backend.execute([*given, *(Request(rows, cancelled=True) for _ in range(20))])
    assert backend.runs == 8  # the third, and seven before it is asked again
    np.testing.assert_array_equal(np.from_dlpack(responses[2].tensors[0]), rows * 2)
    dropped = [response.error for response in responses if response.error is not None]
    assert len({id(error) for error in dropped}) == len(dropped) == 15
