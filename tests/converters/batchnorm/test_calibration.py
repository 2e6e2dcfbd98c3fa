"""Calibration counts every image once, even when interrupted, in batches that the model supports."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from rtool.converters import onnx2torch, onnx_to_torch, restore_batchnorm
from rtool.errors import InputError


def random(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def fixed_batch(batch, folder):
    """A fused Conv and a fused Linear at 3x16x8, with a token expanded to `batch` rows, so no other batch runs."""
    weights = {
        "onnx::Conv_1": random(8, 3, 3, 3, seed=1),
        "onnx::Conv_2": random(8, seed=2),
        "onnx::Gemm_3": random(6, 8, seed=3),
        "onnx::Gemm_4": random(6, seed=4),
        "token": random(1, 8, 1, 8, seed=5),
        "shape": np.array([batch, 8, 1, 8]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "onnx::Conv_1", "onnx::Conv_2"], ["a"], name="/conv/Conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], name="/relu"),
        helper.make_node("Expand", ["token", "shape"], ["t"], name="/expand"),
        helper.make_node("Concat", ["t", "r"], ["c"], name="/concat", axis=2),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="/pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="/flatten"),
        helper.make_node("Gemm", ["f", "onnx::Gemm_3", "onnx::Gemm_4"], ["y"], name="/fc/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "fixed_batch",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 3, 16, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 6])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = folder / "fixed_batch.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def batches(*sizes):
    """Batches whose statistics differ, so that counting one twice shows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 16, 8, generator=generator) * (1 + index) + index for index, size in enumerate(sizes)]


def norms(module):
    return {name: tensor for name, tensor in module.state_dict().items() if "running" in name}


def test_a_batch_interrupted_between_two_layers_counts_once(model_file, tmp_path):
    state = tmp_path / "state"
    whole, resumed = onnx_to_torch(model_file), onnx_to_torch(model_file)
    layer = [layer for layer in resumed.modules() if isinstance(layer, nn.Conv2d)][2]
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = layer.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        restore_batchnorm(resumed, batches(8, 8, 8, 8, 8), state=state)
    hook.remove()
    assert state.exists()
    assert restore_batchnorm(resumed, batches(8, 8, 8, 8, 8), state=state).images == 40
    restore_batchnorm(whole, batches(8, 8, 8, 8, 8))
    assert len(norms(whole)) > 4
    for name, tensor in norms(whole).items():
        assert torch.equal(tensor, norms(resumed)[name]), name


def test_fewer_images_than_were_measured_before_the_interruption_are_refused(model_file, tmp_path):
    state, images = tmp_path / "state", batches(8, 8, 8, 8)

    def interrupted():
        yield from images[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_batchnorm(onnx_to_torch(model_file), interrupted(), state=state)
    with pytest.raises(InputError, match="it holds 24, and only 16 were given"):
        restore_batchnorm(onnx_to_torch(model_file), images[:2], state=state)
    assert restore_batchnorm(onnx_to_torch(model_file), images, state=state).images == 32


@pytest.mark.parametrize(("sizes", "measured"), [((8, 8, 1), True), ((1,) * 9, False)])
def test_drift_is_measured_on_a_full_batch_or_reported_as_unknown(model_file, sizes, measured):
    drift = restore_batchnorm(onnx_to_torch(model_file), batches(*sizes)).train_drift
    assert (drift is not None and drift > 0) if measured else drift is None


def test_a_model_with_a_fixed_batch_is_calibrated_in_batches_of_that_size(tmp_path, capfd):
    path = fixed_batch(4, tmp_path)
    images = batches(7, 7, 3)
    module, other = onnx_to_torch(path), onnx_to_torch(path)
    report = restore_batchnorm(module, images)
    assert [entry.after for entry in report.restored] == ["conv", "fc"]
    assert report.images == 16  # the 17th fills no batch
    restore_batchnorm(other, torch.cat(images)[:16].split(4))
    for name, tensor in norms(other).items():
        assert torch.equal(tensor, norms(module)[name]), name
    result = onnx2torch(path, tmp_path / "out.rtool", restore_bn=True, calibrate=batches(32))
    assert (result.batch, result.restored.images) == (4, 32)
    with pytest.raises(InputError, match="supports batches of 4 only"):
        restore_batchnorm(onnx_to_torch(path), batches(3))
    assert "def forward" not in "".join(capfd.readouterr())  # torch.fx prints the code of a module that raises


def test_a_linear_of_a_model_with_a_fixed_batch_of_one_gets_no_batchnorm(tmp_path):
    module = onnx_to_torch(fixed_batch(1, tmp_path))
    report = restore_batchnorm(module, batches(16))
    assert [entry.after for entry in report.restored] == ["conv"]
    assert [(entry.layer, "one image" in entry.reason) for entry in report.skipped] == [("fc", True)]
    assert module.train()(batches(1)[0]).shape == (1, 6)


def test_a_folder_is_not_batches(model_file):
    with pytest.raises(InputError, match="calibrate holds str, not tensors: give batches"):
        restore_batchnorm(onnx_to_torch(model_file), "crops/")
