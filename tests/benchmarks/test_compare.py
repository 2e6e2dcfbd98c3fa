"""Parity of two runners: what is compared, and what is refused."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from rtool.benchmarks import latency, parity
from rtool.benchmarks.compare import compare_runners
from rtool.benchmarks.references import common_batch, random_inputs
from rtool.converters import export
from rtool.converters.records.preprocessing import Preprocessing
from rtool.converters.records.record import TensorSpec
from rtool.errors import InputError, PlatformError


@dataclass
class Scale:
    """A runner that multiplies its input."""

    factor: float
    name: str = "scale"
    batch: int | None = None
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", ("N", 3)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", ("N", 3)),)
    seen: list = field(default_factory=list)

    def run(self, *arrays):
        self.seen.append(arrays)
        return (arrays[0].astype(np.float64) * self.factor,)


def compare(a: Scale, b: Scale, **tolerances):
    return compare_runners(a, b, random_inputs(a.inputs, 4), described="random", **tolerances)


def test_equal_models_pass_and_both_saw_the_same_input():
    a, b = Scale(2.0), Scale(2.0)
    report = compare(a, b, max_rel=0.0)
    assert report.passed
    np.testing.assert_array_equal(a.seen[0][0], b.seen[0][0])


def test_a_model_off_by_a_tenth_fails_on_error_but_not_on_cosine():
    assert not compare(Scale(1.0), Scale(1.1), max_rel=0.05).passed
    assert compare(Scale(1.0), Scale(1.1), min_cosine=0.9999).passed


def test_a_float16_model_is_given_float16():
    half = Scale(1.0, inputs=(TensorSpec("x", "float16", ("N", 3)),))
    compare(Scale(1.0), half)
    assert half.seen[0][0].dtype == np.float16


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((TensorSpec("x", "uint8", ("N", 3)),), "preprocessing embedded"),
        ((TensorSpec("x", "float32", ("N", 4)),), "same input"),
    ],
)
def test_models_with_other_inputs_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        compare(Scale(1.0), Scale(1.0, inputs=inputs))


def test_a_fixed_batch_replaces_the_wanted_one_and_two_different_ones_are_refused():
    assert common_batch([Scale(1), Scale(1, batch=16)], 2) == 16
    assert common_batch([Scale(1), Scale(1)], 2) == 2
    with pytest.raises(InputError, match="expected 1 or more"):
        common_batch([Scale(1)], 0)
    with pytest.raises(InputError, match="different fixed batches"):
        common_batch([Scale(1, batch=1), Scale(1, batch=16)], 2)


def test_random_inputs_are_seeded_and_close_open_sizes():
    spec = TensorSpec("x", "float32", ("N", 3, 2))
    np.testing.assert_array_equal(random_inputs([spec], 2, 5)[0], random_inputs([spec], 2, 5)[0])
    specs = [TensorSpec("x", "float32", ("N", "H")), TensorSpec("ids", "int64", ("N",)), TensorSpec("k", "bool", (3,))]
    open_size, ids, fixed = random_inputs(specs, 2, probes={"ids": "ones"})
    assert (open_size.shape, ids.tolist(), fixed.shape, fixed.dtype) == ((2, 64), [1, 1], (3,), np.bool_)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One small network as TorchScript, an exported program and ONNX, with and without its preprocessing inside."""
    tmp_path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(336, 8))
    x = torch.randn(2, 3, 16, 8)
    torch.jit.save(torch.jit.trace(module.eval(), x), tmp_path / "m.pt")
    torch.export.save(
        torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("N")},)), tmp_path / "m.pt2"
    )
    own = Preprocessing(16, 8)
    export(module, tmp_path / "m.onnx", preprocessing=own)
    export(module, tmp_path / "pixels.onnx", preprocessing=own, embed_preprocessing=True)
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 12, 3), dtype=np.uint8)
        (tmp_path / "crops" / f"p{index}").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "crops" / f"p{index}" / "0.png")
    return tmp_path


def test_torch_files_are_compared_where_either_states_its_inputs(files):
    assert parity(files / "m.pt", files / "m.pt2").passed
    assert parity(files / "m.onnx", files / "m.pt").passed
    with pytest.raises(InputError, match="neither states"):
        parity(files / "m.pt", files / "m.pt")
    assert len(latency([files / "m.pt", files / "m.pt2"], rounds=3).rows) == 2
    with pytest.raises(InputError, match="does not state"):
        latency([files / "m.pt"], rounds=3)


def test_images_reach_each_model_in_the_form_that_it_accepts(files):
    pixels, crops = files / "pixels.onnx", str(files / "crops")
    assert parity(files / "m.onnx", pixels, data=crops, max_rel=None, min_cosine=0.999999).passed
    assert parity(pixels, files / "m.pt", data=crops, max_rel=None, min_cosine=0.999999).passed
    with pytest.raises(InputError, match="--data"):
        parity(files / "m.onnx", pixels)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("reference", ["examples/models/osnet_x0_25_synthetic.onnx", "osnet_x0_25"])
def test_a_gpu_that_is_absent_is_refused_and_never_replaced_by_the_cpu(reference):
    with pytest.raises(PlatformError, match="cannot use"):
        parity(reference, reference, device="cuda")
    with pytest.raises(PlatformError, match="cannot use"):
        latency([reference], device="cuda:0")


def test_an_unknown_device_is_refused():
    with pytest.raises(PlatformError, match="device 'tpu'"):
        latency(["examples/models/osnet_x0_25_synthetic.onnx"], device="tpu")
