"""`onnx2torch` reports the fixed batch of a module, and makes it dynamic on request."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.cli.main import run
from rtool.converters import load_bundle, onnx2torch, onnx_to_torch
from rtool.converters.bundles.bundle import bundle_to_onnx
from rtool.converters.bundles.reference import load_model
from rtool.converters.runtime.batches.batch_by_numbers import prove_other_batches
from rtool.converters.runtime.runners import OnnxRunner, TorchRunner, run_in_batches
from rtool.errors import InputError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.network.networks import load_network

EXPORTS = [
    ("ts", 11, True, 1),
    ("ts", 17, False, 4),
    ("dy", 18, False, 1),
    ("dy", 20, True, 4),
    *(
        pytest.param(*more, marks=pytest.mark.slow)
        for more in [("ts", 11, True, 4), ("ts", 17, False, 1), ("dy", 18, False, 4), ("dy", 20, True, 1)]
    ),
]


@pytest.mark.parametrize(("kind", "opset", "fused", "batch"), EXPORTS)
def test_a_class_token_fixes_the_batch_until_it_is_made_dynamic(
    exported, run_onnx, images, tmp_path, kind, opset, fused, batch
):
    original, proto = exported("vit", kind, opset, batch, fused)
    path = tmp_path / "vit.onnx"
    onnx.save(proto, path)
    assert onnx2torch(path, tmp_path / "fixed.rtool").batch == batch
    dynamic = onnx2torch(path, tmp_path / "dynamic.rtool", batch="dynamic")
    assert dynamic.batch is None
    assert [entry.batch for entry in dynamic.parity] == [1, 2, 3, 16]
    module = load_bundle(dynamic.output).module
    for size in (1, 3, 5):
        with torch.no_grad():
            expected = original(torch.from_numpy(images(size)))
            assert (module(torch.from_numpy(images(size))) - expected).abs().max() <= 1e-5 * expected.abs().max()
        back = run_onnx(bundle_to_onnx(dynamic.output), images(size))[0]
        assert np.abs(back - expected.numpy()).max() <= 1e-5 * np.abs(expected.numpy()).max()


@pytest.mark.parametrize(("kind", "opset", "batch"), [("ts", 11, 1), ("dy", 20, 4)])
def test_a_batch_stated_only_in_shapes_is_not_fixed(exported, kind, opset, batch):
    _, proto = exported("cnn", kind, opset, batch)
    assert prove_other_batches(onnx_to_torch(proto), OnnxRunner(proto), 1e-5) is not None


@pytest.mark.parametrize("fused", [False, True])
def test_a_loaded_model_reports_its_fixed_batch_and_runners_pad_to_it(exported, images, tmp_path, fused):
    original, proto = exported("vit", "ts", 17, 4, fused)
    path = tmp_path / "vit.onnx"
    onnx.save(proto, path)
    for reference in (path, onnx2torch(path, tmp_path / "fixed.rtool").output):
        model = load_model(reference)
        assert model.batch == 4
        runner = TorchRunner(model.module, batch=model.batch)
        (got,) = run_in_batches(runner, images(6), 64)
        with torch.no_grad():
            expected = original(torch.from_numpy(images(6))).numpy()
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert load_model(onnx2torch(path, tmp_path / "dynamic.rtool", batch="dynamic").output).batch is None
    onnx.save(exported("cnn", "ts", 17, 4)[1], path)
    assert load_model(path).batch is None


def test_training_refuses_a_fixed_batch_and_says_how_to_make_it_dynamic(exported, tmp_path):
    path = tmp_path / "vit.onnx"
    onnx.save(exported("vit", "dy", 20, 4)[1], path)
    with pytest.raises(InputError, match=r"fixed batch of 4.*--batch dynamic"):
        load_network(ModelConfig(reference=str(path)))


def one_file(node, inputs, path):
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([node], "rows", shape[:1], shape[1:], inputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_weight_with_one_row_per_image_fixes_the_batch_for_good(tmp_path):
    weight = numpy_helper.from_array(np.float32([[1, 2, 3], [4, 5, 6]]), "w")
    path = one_file(helper.make_node("Mul", ["x", "w"], ["y"]), [weight], tmp_path / "rows.onnx")
    assert onnx2torch(path, tmp_path / "rows.rtool").batch == 2
    with pytest.raises(InputError, match=r"rows\.onnx: batch dynamic: .*cannot be verified"):
        onnx2torch(path, tmp_path / "dynamic.rtool", batch="dynamic")
    assert not (tmp_path / "dynamic.rtool").exists()


def test_a_module_that_runs_at_another_batch_with_other_numbers_has_a_fixed_batch(tmp_path):
    weight = numpy_helper.from_array(np.float32([2]), "w")
    path = one_file(helper.make_node("Mul", ["x", "w"], ["y"]), [weight], tmp_path / "scale.onnx")
    module = onnx_to_torch(path)
    assert prove_other_batches(module, OnnxRunner(path), 1e-5).sizes == (1, 2, 3)
    module.forward = lambda x: x * 2 if len(x) == 2 else x * 2 - x.mean(0)
    assert prove_other_batches(module, OnnxRunner(path), 1e-5) is None


def test_the_command_says_what_to_do_about_a_fixed_batch(exported, tmp_path, capsys):
    path = tmp_path / "vit.onnx"
    onnx.save(exported("vit", "ts", 17, 4)[1], path)
    assert run(["onnx2torch", str(path), "-o", str(tmp_path / "a.rtool")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "batches of 4 only; --batch dynamic makes it dynamic" in shown
    assert run(["onnx2torch", str(path), "-o", str(tmp_path / "b.rtool"), "--batch", "dynamic"]) == 0
    assert "batches of" not in capsys.readouterr().out
    assert run(["onnx2torch", str(path), "-o", str(tmp_path / "c.rtool"), "--batch", "some"]) == 2
    assert "positive number or 'dynamic'" in capsys.readouterr().err
