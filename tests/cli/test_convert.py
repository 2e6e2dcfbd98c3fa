"""`rtool inspect`, `onnx2torch` and `ops`: exit codes, JSON, and nothing left behind by bad input."""

import json

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli.main import run

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


@pytest.fixture
def model_path(tmp_path):
    import numpy as np

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "conv.weight")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 8, 8]), ("y", None))]
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["a"], name="conv"), helper.make_node("Relu", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [weight])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_inspect_prints_one_json_object(model_path, capsys):
    assert run(["inspect", str(model_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"] == {"Conv": 1, "Relu": 1}
    assert found["parameters"] == 108


def test_onnx2torch_ends_with_the_path_and_refuses_to_replace(model_path, tmp_path, capsys):
    target = tmp_path / "out.rtool"
    assert run(["onnx2torch", str(model_path), "-o", str(target), "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert run(["onnx2torch", str(model_path), "-o", str(target)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(["onnx2torch", str(model_path), "-o", str(target), "--overwrite", "-q"]) == 0


def test_onnx2torch_reports_what_it_removed_and_ignored_of_a_weights_file(model_path, tmp_path, capsys):
    import torch

    content = {"state_dict": {"module.conv.weight": torch.zeros(4, 3, 3, 3)}, "epoch": 3}
    torch.save(content, tmp_path / "w.ckpt")
    command = ["onnx2torch", str(model_path), "-o", str(tmp_path / "out.rtool"), "--weights", str(tmp_path / "w.ckpt")]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "read from 'state_dict'; 'module.' removed from the names; other entries ignored: epoch" in printed
    assert run([*command, "--overwrite", "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["weights"]["origin"]
    assert (origin["container"], origin["removed"], origin["ignored"]) == ("state_dict", ["module."], ["epoch"])


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"version https://git-lfs", b"\x08\x07\x12"])
def test_bad_files_end_with_one_message_and_exit_code_2(tmp_path, capsys, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    for command in (["inspect", str(path)], ["onnx2torch", str(path), "-o", str(tmp_path / "out.rtool")]):
        assert run(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ")
        assert str(path) in error
        assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before


def test_ops_lists_operators_and_their_opsets(capsys):
    assert run(["ops", "Conv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["operators"]
    assert rows[0]["operator"] == "Conv"
    assert rows[0]["trainable"]
    assert run(["ops", "Convv"]) == 2
    assert "did you mean Conv" in capsys.readouterr().err


@pytest.fixture
def fused_path(tmp_path):
    """A Conv with a bias and a generated name, as fusing leaves it, at 3 x 16 x 8."""
    import numpy as np

    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal((4, 3, 3, 3)).astype(np.float32), "onnx::Conv_10"),
        numpy_helper.from_array(draw.standard_normal(4).astype(np.float32), "onnx::Conv_11"),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 16, 8]), ("y", None))]
    conv = helper.make_node("Conv", ["x", "onnx::Conv_10", "onnx::Conv_11"], ["a"], name="/stem/conv/Conv")
    graph = helper.make_graph([conv, helper.make_node("Relu", ["a"], ["y"])], "g", info[:1], info[1:], weights)
    path = tmp_path / "fused.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def restoring(model, target, images=96):
    data = "synthetic-people:identities=12,images=8,size=16x8"
    calibration = ["--restore-bn", "--calibrate", data, "--calibration-images", str(images)]
    return ["onnx2torch", str(model), "-o", str(target), "--preprocessing", "imagenet16.json", *calibration]


def test_an_interrupted_calibration_is_gone_on_with(fused_path, tmp_path, monkeypatch, capsys):
    from rtool.converters.bundles.bundle import load_bundle
    from rtool.finetune.runs import calibration_images

    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet16.json").write_text(json.dumps({"height": 16, "width": 8, **IMAGENET}))
    original, decoded = calibration_images.stream_pixels, []

    def stopping(*arguments):
        for index, pixels in enumerate(original(*arguments)):
            if index == 2:
                raise KeyboardInterrupt
            yield pixels

    def counting(*arguments):
        for rows, pixels in original(*arguments):
            decoded.append(len(pixels))
            yield rows, pixels

    monkeypatch.setattr(calibration_images, "stream_pixels", stopping)
    assert run(restoring(fused_path, "out.rtool")) == 130
    captured = capsys.readouterr()
    assert "the same command continues from out.rtool.calibration" in captured.err
    assert (tmp_path / "out.rtool.calibration").exists()
    assert not (tmp_path / "out.rtool").exists()
    monkeypatch.setattr(calibration_images, "stream_pixels", counting)
    assert run(restoring(fused_path, "out.rtool")) == 0
    captured = capsys.readouterr()
    assert "continuing an interrupted calibration: calibrated on 96 of 96" in captured.err
    assert decoded == [32, 32, 32]
    assert not (tmp_path / "out.rtool.calibration").exists()
    assert run(restoring(fused_path, "whole.rtool")) == 0
    resumed, whole = (load_bundle(tmp_path / name).module.state_dict() for name in ("out.rtool", "whole.rtool"))
    assert "stem.bn.running_mean" in whole
    assert all(value.equal(resumed[name]) for name, value in whole.items())


def test_a_small_sample_is_warned_of_and_progress_and_json_keep_apart(fused_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet16.json").write_text(json.dumps({"height": 16, "width": 8, **IMAGENET}))
    assert run(restoring(fused_path, "out.rtool", images=16)) == 0
    captured = capsys.readouterr()
    assert "warning: 16 calibration images are few" in captured.err
    assert "calibrated on 16 of 16 images" in captured.err
    assert "16 images" in captured.out
    assert run([*restoring(fused_path, "again.rtool", images=16), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["restored"]
    assert (found["images"], len(found["images_sha256"])) == (16, 64)
    assert found["uncertainty"] > 0.1


def test_shapes_read_as_sizes_and_quiet_prints_one_line(fused_path, capsys):
    assert run(["inspect", str(fused_path)]) == 0
    assert "N x 3 x 16 x 8" in capsys.readouterr().out
    assert run(["inspect", str(fused_path), "-q"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "fused.onnx: unknown architecture, 112 parameters, batch dynamic, not verified, no problems"
