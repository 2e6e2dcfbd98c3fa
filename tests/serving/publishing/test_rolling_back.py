"""Going back a version: what serves, which configuration returns, and which versions stay."""

import os
import time

import pytest

from rtool.errors import InputError
from rtool.serving import deploy, rollback, validate_repository


def test_rollback_serves_the_previous_version_with_its_configuration(root, onnx_files, make_model, tmp_path):
    first = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    text = first.config.read_text()
    modified = first.config.stat().st_mtime_ns
    deploy(make_model("reid", tmp_path / "wider.onnx", features=11), name="m", repository=root, new_contract=True)
    result = rollback("m", repository=root)
    assert (result.version, result.previous, result.served) == (1, 2, (1,))
    assert first.config.read_text() == text
    assert first.config.stat().st_mtime_ns > modified  # Triton reloads only what is newer
    assert validate_repository(root) == ()


def test_the_configuration_is_newer_than_files_from_the_future(root, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    future = time.time() + 3600
    os.utime(root / "m/1/model.onnx", (future, future))
    result = deploy(onnx_files["reid"], name="m", repository=root)
    assert result.config.stat().st_mtime > future
    assert rollback("m", repository=root).config.stat().st_mtime > future


def test_rollback_can_be_undone_and_the_next_publish_takes_a_new_number(root, onnx_files):
    for _ in range(2):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    rollback("m", repository=root)
    assert rollback("m", repository=root, to=2).served == (2,)
    rollback("m", repository=root, to=1)
    assert deploy(onnx_files["reid"], name="m", repository=root).version == 3


def test_rollback_without_a_predecessor_is_refused(root, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    with pytest.raises(InputError, match="no predecessor"):
        rollback("m", repository=root)
    with pytest.raises(InputError, match="no published model"):
        rollback("other", repository=root)


def test_old_versions_go_when_asked_and_a_rollback_stays_possible(root, onnx_files, make_model, tmp_path):
    deploy(onnx_files["face"], name="m", repository=root, device="cpu")  # other warm-up than those that follow
    for _ in range(3):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu", new_contract=True)
    result = deploy(onnx_files["reid"], name="m", repository=root, keep=2)
    assert sorted(path.name for path in (root / "m").iterdir() if path.name.isdigit()) == ["4", "5"]
    assert len(list((root / "m/warmup").iterdir())) == 1
    assert result.notes == ("removed version 1, 2, 3",)
    assert rollback("m", repository=root).served == (4,)
    deploy(onnx_files["reid"], name="m", repository=root, keep=2)  # version 6; 4 served until now
    assert rollback("m", repository=root).served == (4,)
    assert validate_repository(root) == ()
    with pytest.raises(InputError, match="at least 2"):
        deploy(onnx_files["reid"], name="m", repository=root, keep=1)
