"""A publisher that dies at any file operation leaves a repository that serves: the old version or the new one."""

import os
import shutil
from pathlib import Path

import pytest

from rtool.serving import deploy, validate_repository
from rtool.serving.repository.model_config import read_config, served_versions
from rtool.serving.repository.validation import servable_models


class Crash(BaseException):
    """Stands for the end of the process: nothing may catch it, clean-up included."""


@pytest.fixture
def crash_at(monkeypatch):
    """`crash_at(n)` kills the process, as far as the disk can tell, at its n-th rename or write to the repository."""

    def install(count: int) -> None:
        remaining = [count]

        def dying(real):
            def operation(*arguments, **options):
                if remaining[0] == 0:
                    raise Crash
                remaining[0] -= 1
                return real(*arguments, **options)

            return operation

        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, dying(getattr(os, name)))
        monkeypatch.setattr("shutil.copyfile", dying(shutil.copyfile))
        # A dead process does not tidy up.
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)

    return install


def publish_and_crash(model: Path, root: Path) -> bool:
    try:
        deploy(model, name="m", repository=root, device="cpu", new_contract=True)
    except Crash:
        return True
    return False


@pytest.mark.parametrize("step", range(8))
def test_an_update_that_dies_leaves_the_old_or_the_new_version(
    tmp_path, onnx_files, make_model, crash_at, step, monkeypatch
):
    root = tmp_path / "models"
    wider = make_model("reid", tmp_path / "wider.onnx", features=11)  # other outputs: the configuration must change
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    crash_at(step)
    crashed = publish_and_crash(wider, root)
    monkeypatch.undo()
    assert crashed == (step < 7)
    assert validate_repository(root) == ()
    assert served_versions(read_config(root / "m/config.pbtxt")) == ((1,) if crashed else (2,))
    after = deploy(wider, name="m", repository=root, new_contract=True)  # and the next publisher is not in its way
    assert validate_repository(root) == ()
    assert served_versions(read_config(after.config)) == (after.version,)
    assert not (tmp_path / ".models.rtool-staging").exists()


@pytest.mark.parametrize("step", range(9))
def test_a_new_model_that_dies_is_whole_or_not_there(tmp_path, onnx_files, crash_at, step, monkeypatch):
    root = tmp_path / "models"
    deploy(onnx_files["face"], name="other", repository=root, device="cpu")
    crash_at(step)
    crashed = publish_and_crash(onnx_files["reid"], root)
    monkeypatch.undo()
    assert validate_repository(root) == ()
    assert servable_models(root) == (("other",) if crashed else ("m", "other"))
    assert deploy(onnx_files["reid"], name="m", repository=root).version == (1 if crashed else 2)
