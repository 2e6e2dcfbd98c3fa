"""The packer's own code in this process, with a module and a target that stand in for Triton's."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rtool

BACKENDS = Path(rtool.__file__).resolve().parent / "serving/backends"
CPU, GPU = (1, 0), (2, 0)
"""DLPack's device types: kDLCPU and kDLCUDA."""


class Tensor:
    """An array on a device; as Triton's, it gives itself away by DLPack only where it can."""

    def __init__(self, name, array, device=CPU):
        self._name, self._array, self._device = name, array, device

    @staticmethod
    def from_dlpack(name, lent):
        return Tensor(name, np.from_dlpack(lent))

    def name(self):
        return self._name

    def __dlpack__(self, **options):
        if self._device != CPU:
            raise BufferError("memory of a GPU")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._device


class Request:
    """What reaches the packer, and what it sends on; a target on a GPU answers there unless it is asked not to."""

    def __init__(self, inputs, requested_output_names=("embedding",), model_name="", preferred_memory=None):
        self._inputs, self.names, self.asked = list(inputs), requested_output_names, preferred_memory

    def inputs(self):
        return self._inputs

    def requested_output_names(self):
        return self.names

    async def async_exec(self):
        rows = np.from_dlpack(self._inputs[0])
        if (rows < 0).any():
            said = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : negative"
            error = SimpleNamespace(message=lambda: said, code=lambda: 1)  # INTERNAL, whatever it was
            return SimpleNamespace(has_error=lambda: True, error=lambda: error)
        device = CPU if self.asked == ("memory", "cpu", 0) else GPU
        return SimpleNamespace(has_error=lambda: False, tensors={"embedding": Tensor("embedding", rows * 2, device)})


@pytest.fixture
def packer(monkeypatch):
    metric = SimpleNamespace(increment=lambda _: None)
    family = SimpleNamespace(Metric=lambda labels: metric)
    utils = SimpleNamespace(
        Tensor=Tensor,
        InferenceRequest=Request,
        InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(tensors=output_tensors, error=error),
        MetricFamily=type("MetricFamily", (), {"COUNTER": 0, "__new__": lambda _, **__: family}),
        PreferredMemory=lambda kind, device: ("memory", kind, device),
        TRITONSERVER_MEMORY_CPU="cpu",
        TritonError=type(
            "TritonError",
            (),
            {"INVALID_ARG": 3, "UNKNOWN": 0, "__init__": lambda self, *what: setattr(self, "what", what)},
        ),
        get_output_tensor_by_name=lambda response, name: response.tensors[name],
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    for name in ("triton_tensors", "packer"):
        spec = importlib.util.spec_from_file_location(name, BACKENDS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    config = {
        "parameters": {"TARGET_MODEL": {"string_value": "target"}},
        "max_batch_size": 4,
        "input": [{"name": "crop", "dims": [2]}],
        "output": [{"name": "embedding"}],
    }
    model.initialize({"model_config": json.dumps(config), "model_name": "packer"})
    return model


def test_answers_of_a_target_on_a_gpu_are_asked_for_in_main_memory(packer):
    rows = [np.full((count, 2), count, np.float32) for count in (1, 2)]
    answers = asyncio.run(packer.execute([Request([Tensor("crop", part)]) for part in rows]))
    assert [answer.error for answer in answers] == [None, None]
    for part, answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(np.from_dlpack(answer.tensors[0]), part * 2)


def test_memory_of_a_gpu_cannot_be_read(packer):
    """What the request above prevents."""
    with pytest.raises(BufferError):
        np.from_dlpack(Tensor("embedding", np.ones(1, np.float32), GPU))


@pytest.mark.parametrize(
    "at_fault", [np.ones(2, np.float32), np.ones((0, 2), np.float32), -np.ones((1, 2), np.float32)]
)
def test_a_request_at_fault_fails_alone(packer, at_fault):
    """Of no rows: Triton hands those of shape [0, 2] and [2**32, 2] over without a batch axis; of refused values."""
    rows = [np.full((count, 2), count, np.float32) for count in (1, 2)]
    given = [rows[0], at_fault, rows[1]]
    answers = asyncio.run(packer.execute([Request([Tensor("crop", part)]) for part in given]))
    for part, answer in ((rows[0], answers[0]), (rows[1], answers[2])):
        assert answer.error is None
        np.testing.assert_array_equal(np.from_dlpack(answer.tensors[0]), part * 2)
    assert ("negative" if (at_fault < 0).any() else "one row or more") in str(answers[1].error.what)
    assert answers[1].error.what[1] == 3
