"""Weights that are swapped after they were published are found: offline, before a start, and by the server itself."""

import shutil
from pathlib import Path

import pytest

from rtool.errors import InputError
from rtool.serving import TritonServer, deploy, deploy_packer, rollback, validate_repository
from rtool.serving.publishing.on_server.rollout import load_on_server, unload_from_server


@pytest.fixture
def root(tmp_path: Path, onnx_files, make_model) -> Path:
    folder = tmp_path / "models"
    deploy(onnx_files["reid"], name="m", repository=folder, device="cpu")
    deploy(make_model("reid", tmp_path / "second.onnx", seed=9), name="m", repository=folder, device="cpu")
    return folder


def test_swapped_weights_are_a_problem(root):
    assert validate_repository(root) == ()
    shutil.copy(root / "m/1/model.onnx", root / "m/2/model.onnx")
    (problem,) = validate_repository(root)
    assert problem.path == root / "m/2/model.onnx"
    assert "is not the file that was published" in problem.message
    with pytest.raises(InputError, match="not the file that was published"):
        TritonServer(root).start()


def test_another_file_that_the_configuration_names_is_a_problem(root):
    shutil.copy(root / "m/1/model.onnx", root / "m/2/other.onnx")
    config = root / "m/config.pbtxt"
    config.write_text(config.read_text() + 'default_model_filename: "other.onnx"\n')
    assert any("not the file that was published" in problem.message for problem in validate_repository(root))
    config.write_text(config.read_text().replace('"other.onnx"', '"../1/model.onnx"'))
    assert any("expected the name of a file" in problem.message for problem in validate_repository(root))


def test_the_code_of_a_packer_is_compared_too(root):
    deploy_packer("m", name="packer", repository=root)
    code = root / "packer/1/model.py"
    code.write_text(code.read_text() + "\n# edited\n")
    assert any("packer/1/model.py: is not the file" in str(problem) for problem in validate_repository(root))


def test_a_rollback_to_swapped_weights_is_refused_and_changes_nothing(root):
    shutil.copy(root / "m/2/model.onnx", root / "m/1/model.onnx")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="not the file that was published"):
        rollback("m", repository=root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_version_without_a_manifest_is_not_judged(root):
    (root / "m/2/manifest.json").unlink()
    shutil.copy(root / "m/1/model.onnx", root / "m/2/model.onnx")
    assert validate_repository(root) == ()


def test_the_server_refuses_to_load_swapped_weights(server, repository, onnx_files, make_model, tmp_path):
    deploy(onnx_files["reid"], name="swapped", repository=repository, device="cpu")
    published = (repository / "swapped/1/model.onnx").read_bytes()
    shutil.copy(make_model("reid", tmp_path / "other.onnx", seed=3), repository / "swapped/1/model.onnx")
    try:
        with pytest.raises(InputError, match="is not the file that was published"):
            load_on_server(server.url, "swapped")
    finally:  # the server, which other tests share, forgets the refusal when the version loads
        (repository / "swapped/1/model.onnx").write_bytes(published)
        load_on_server(server.url, "swapped")
        unload_from_server(server.url, "swapped")
        shutil.rmtree(repository / "swapped")
