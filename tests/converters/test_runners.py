"""Every kind of reference opens as a runner of the same interface, and gives the same numbers."""

import warnings

import numpy as np
import pytest
import torch

from rtool.converters import (
    OnnxRunner,
    TorchRunner,
    load_model,
    measure_parity,
    onnx2torch,
    onnx_to_torch,
    open_runner,
    run_in_batches,
)
from rtool.errors import InputError


def test_all_kinds_of_reference_agree(model_file, tmp_path, images):
    bundle = onnx2torch(model_file, tmp_path / "small.rtool").output
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    bundle_copy = run / "checkpoints" / "best.rtool"
    onnx2torch(model_file, bundle_copy)
    module = onnx_to_torch(model_file)
    x = torch.from_numpy(images(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, x), tmp_path / "small.pt")
    shapes = ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), tmp_path / "small.pt2")
    expected = OnnxRunner(model_file).run(images(3))
    for reference in (model_file, bundle, run, tmp_path / "small.pt", tmp_path / "small.pt2"):
        runner = open_runner(reference)
        assert runner.batch is None
        if reference.suffix == ".pt2":
            assert [(spec.dtype, *spec.shape) for spec in runner.inputs] == [("float32", "batch", 3, 16, 8)]
        assert measure_parity(expected, runner.run(images(3))).max_rel <= 1e-5, reference


def test_a_zoo_name_builds_the_architecture_and_a_typo_gets_the_nearest():
    model = load_model("mobilefacenet")
    assert model.kind == "zoo"
    assert model.inputs[0].shape == ("batch", 3, 112, 112)
    with pytest.raises(InputError, match="mobilefacenet"):
        load_model("mobilefacenett")


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path):
    for name in ("model.pt", "model.pt2", "model.onnx"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(InputError, match="expected"):
            load_model(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found nothing"):
        load_model(tmp_path / "empty")
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="has no graph"):
        load_model(tmp_path / "model.pth")


def test_the_tail_of_a_fixed_batch_is_padded_and_cut(exported, images):
    _, proto = exported("cnn", "ts", 11, 4)
    runner = OnnxRunner(proto)
    assert runner.batch == 4
    whole = run_in_batches(runner, images(6), 32)[0]
    single = OnnxRunner(exported("cnn", "ts", 11)[1]).run(images(6))[0]
    assert whole.shape == single.shape
    assert np.allclose(whole, single, atol=1e-5)


def test_wrong_inputs_name_the_model_and_what_it_takes(model_file, images):
    runner = OnnxRunner(model_file)
    with pytest.raises(InputError, match=r"takes 1 inputs \(x\), got 2"):
        runner.run(images(1), images(1))
    with pytest.raises(InputError, match="refused the input"):
        runner.run(images(1)[:, :1])


def test_inputs_that_torch_cannot_take_are_refused_without_a_traceback(exported, images, capsys):
    runner = TorchRunner(onnx_to_torch(exported("cnn", "ts", 11)[1]), name="small")
    with pytest.raises(InputError, match=r"small: torch refused inputs of shape \[2, 1, 16, 8\]"):
        runner.run(images(2)[:, :1])
    assert capsys.readouterr().err == ""
