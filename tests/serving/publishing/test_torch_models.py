"""TorchScript and exported programs are published under the rules of ONNX files, as TorchScript that states itself."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from rtool.errors import ConfigError, GateError, InputError
from rtool.serving import deploy, rollback, validate_repository
from rtool.serving.publishing import published_form
from rtool.serving.publishing.checking import check
from rtool.serving.repository.serving_settings import ServingSettings

from .repository_files import parsed


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_torch_file_is_published_as_checked_torchscript(make_torch, root, tmp_path, suffix):
    given = make_torch(tmp_path / f"model{suffix}")
    result = deploy(given, name="torch", repository=root, device="cpu", batch="dynamic")
    config = parsed(result.config)
    assert (config.backend, config.platform, config.max_batch_size) == ("pytorch", "pytorch_libtorch", 16)
    assert config.parameters["INTRA_OP_THREAD_COUNT"].string_value == "1"
    assert [(one.batch_size, one.count) for one in config.model_warmup] == [(1, 3), (16, 3)]
    served = torch.jit.load(str(result.path / "model.pt"))
    images = torch.randn(5, 3, 8, 4)
    expected = torch.export.load(given).module() if suffix == ".pt2" else torch.jit.load(str(given))
    torch.testing.assert_close(served(images), expected(images), rtol=0, atol=1e-6)
    names = zipfile.ZipFile(result.path / "model.pt").namelist()
    assert not [name for name in names if name.endswith(".debug_pkl")]
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["given_sha256"] != manifest["sha256"] == result.sha256
    assert ("TorchScript with the same operators" in "".join(result.notes)) == (suffix == ".pt2")
    assert not validate_repository(root)


def test_the_same_model_moves_between_runtimes_and_keeps_what_was_set(make_torch, make_model, root, tmp_path):
    onnx = make_model("reid", tmp_path / "model.onnx", batch="N", features=4)
    settings = ServingSettings(max_batch=8, threads=2, instances=3)
    deploy(onnx, name="reid", repository=root, device="cpu", settings=settings)
    moved = deploy(make_torch(tmp_path / "model.pt"), name="reid", repository=root)
    config = parsed(moved.config)
    assert (config.backend, config.max_batch_size, config.instance_group[0].count) == ("pytorch", 8, 3)
    assert config.parameters["INTRA_OP_THREAD_COUNT"].string_value == "2"
    assert "intra_op_thread_count" not in config.parameters
    trt = parsed(root / "reid/configs/trt.pbtxt")
    assert trt.backend == "pytorch"
    assert not trt.HasField("optimization")
    assert rollback("reid", repository=root).version == 1
    back = parsed(root / "reid/config.pbtxt")
    assert (back.backend, back.parameters["intra_op_thread_count"].string_value) == ("onnxruntime", "2")
    again = parsed(deploy(onnx, name="reid", repository=root).config)
    assert (again.backend, again.platform, again.max_batch_size) == ("onnxruntime", "", 8)
    with pytest.raises(ConfigError, match="version 2 cannot be served too: backend"):
        deploy(onnx, name="reid", repository=root, also_serve=[2])


def test_a_file_without_the_manifest_of_an_export_needs_force(make_torch, root, tmp_path):
    path = make_torch(tmp_path / "model.pt")
    path.with_name("model.pt.manifest.json").unlink()
    with pytest.raises(InputError, match=r"no manifest of an export.*rtool export MODEL --format torchscript"):
        deploy(path, name="torch", repository=root)
    assert deploy(path, name="torch", repository=root, force=True).version == 1


def test_the_file_of_others_is_published_by_what_its_arrays_show(make_torch, root, tmp_path):
    path = make_torch(tmp_path / "foreign.pt", stated=False)
    with pytest.raises(InputError, match="states no shapes"):
        deploy(path, name="torch", repository=root)
    arrays = np.random.default_rng(0).random((4, 3, 8, 4), np.float32)  # fewer than a trial run has
    result = deploy(path, name="torch", repository=root, warmup={"input": arrays})
    config = parsed(result.config)
    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[3, 8, 4], [4]]
    assert config.output[0].name == "OUTPUT__0"
    assert not validate_repository(root)


class Runs:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_is_never_opened(root, tmp_path, capsys):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InputError, match="expected TorchScript"):
        deploy(path, name="torch", repository=root, force=True)
    torch.save(Runs(), path)
    with pytest.raises(InputError, match="expected TorchScript"):
        deploy(path, name="torch", repository=root, force=True)
    assert "this ran" not in capsys.readouterr().out
    assert not root.exists()


def test_nonsense_and_a_mixed_batch_are_refused(make_torch, root, tmp_path, exported):
    broken = torch.jit.load(str(make_torch(tmp_path / "model.pt")))
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    broken.save(str(tmp_path / "nan.pt"))
    arrays = {"input": np.random.default_rng(0).random((8, 3, 8, 4), np.float32)}
    with pytest.raises(GateError, match="NaN"):
        deploy(exported(tmp_path / "nan.pt"), name="torch", repository=root, warmup=arrays)
    mixing = torch.jit.trace(lambda x: x - x.mean(0, keepdim=True), torch.rand(3, 5))
    mixing.save(str(tmp_path / "mixing.pt"))
    rows = {"x": np.random.default_rng(0).random((8, 5), np.float32)}
    with pytest.raises(InputError, match="declares an open batch, but a batch of 2 differs"):
        deploy(exported(tmp_path / "mixing.pt"), name="torch", repository=root, warmup=rows)


def test_what_is_published_must_compute_what_was_given(make_torch, root, tmp_path, monkeypatch):
    other = make_torch(tmp_path / "other.pt", seed=5).read_bytes()
    monkeypatch.setattr(published_form, "_rewritten", lambda signature, file: other)
    with pytest.raises(GateError, match="as TorchScript it differs"):
        deploy(make_torch(tmp_path / "model.pt2"), name="torch", repository=root)


def test_a_swapped_file_is_noticed(make_torch, root, tmp_path):
    deploy(make_torch(tmp_path / "model.pt"), name="torch", repository=root)
    (root / "torch/1/model.pt").write_bytes(make_torch(tmp_path / "other.pt", seed=3).read_bytes())
    (problem,) = validate_repository(root)
    assert "is not the file that was published" in problem.message


def test_a_release_says_what_it_cannot_serve(make_torch, root, tmp_path):
    result = deploy(make_torch(tmp_path / "model.pt"), name="torch", repository=root, device="cpu")
    report = check(root)
    assert not report.problems
    assert not report.embedded[0].refused
    text = result.config.read_text().replace("pytorch_libtorch", "torch_aoti")
    result.config.write_text(text)
    (root / "torch/configs/cpu.pbtxt").unlink()
    said = check(root, target="26.02").target.refused
    assert any("'torch_aoti' needs Triton 26.03" in line for line in said)
    assert any("takes no batches yet, and max_batch_size is 16" in line for line in check(root).target.refused)
    assert any("machine code" in line for line in check(root).embedded[0].refused)
