"""`deploy` takes a bundle or a run folder: it exports with the default gates, and says with which command."""

import json
import shutil

import numpy as np
import pytest

from rtool.cli.main import run
from rtool.converters import onnx2torch
from rtool.errors import InputError
from rtool.serving import deploy


@pytest.fixture
def bundle(tmp_path, onnx_files):
    onnx2torch(onnx_files["reid"], tmp_path / "reid.rtool")
    return tmp_path / "reid.rtool"


def test_a_bundle_is_exported_and_published(bundle, tmp_path, onnx_files, run_local):
    result = deploy(bundle, name="m", repository=tmp_path / "models", device="cpu")
    assert result.notes[0].startswith(f"exported with `rtool export {bundle} -o m.onnx` (write-back")
    rows = np.random.default_rng(0).normal(size=(16, 3, 8, 4)).astype(np.float32)
    (got,) = run_local(result.path / "model.onnx", rows)
    np.testing.assert_allclose(got, run_local(onnx_files["reid"], rows)[0], rtol=1e-5, atol=1e-6)
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["command"].startswith(f"rtool deploy {bundle} --name m")
    assert manifest["provenance"]["exported_from"] == str(bundle)


def test_a_run_folder_is_its_best_checkpoint_and_the_batch_is_set(bundle, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(bundle, folder / "checkpoints" / "best.rtool")
    repository = tmp_path / "models"
    command = ["deploy", str(folder), "--name", "m", "--batch", "4", "--repository", str(repository), "--device", "cpu"]
    assert run(command) == 0
    captured = capsys.readouterr()
    assert f"rtool export {folder} --batch 4 -o m.onnx" in captured.out + captured.err
    assert json.loads((repository / "m" / "1" / "manifest.json").read_text())["batch"] == 4


def test_a_folder_that_is_neither_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="got a folder"):
        deploy(tmp_path / "folder", name="m", repository=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_configuration_names_the_file_of_each_version(tmp_path, make_model, exported):
    for seed in (0, 1):
        path = make_model("reid", tmp_path / f"{seed}.onnx", seed=seed)
        result = deploy(path, name="m", repository=tmp_path / "models", device="cpu")
        digests = {str(version): None for version in range(1, seed + 2)}
        for version in digests:
            manifest = json.loads((result.path.parent / version / "manifest.json").read_text())
            digests[version] = manifest["sha256"]
        from rtool.serving.repository.model_config import read_config

        stated = json.loads(read_config(result.config).parameters["rtool.sha256"].string_value)
        assert stated == digests
    assert len(set(digests.values())) == 2
