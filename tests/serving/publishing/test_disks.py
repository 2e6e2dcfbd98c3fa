"""A disk that is full or read-only is named, not the file that was to be published."""

import errno
import os
import shutil

import pytest

from rtool.errors import InputError
from rtool.serving import deploy

from .repository_files import tree


def served(root) -> set[str]:
    """What a server reads; the configurations that served a version are copied aside first, and may stay."""
    return {name for name in tree(root) if "history" not in name} - {".rtool.lock"}


@pytest.mark.parametrize("call", ["copyfile", "fsync", "rename"])
@pytest.mark.parametrize("new", [True, False])
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, onnx_files, monkeypatch, call, new):
    root = tmp_path / "models"
    if not new:
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    before = served(root)
    where = shutil if call == "copyfile" else os

    def full(*given, **_):
        first, second = (*given, None, None)[:2]
        named = (str(first), None, str(second)) if call != "fsync" else ()
        raise OSError(errno.ENOSPC, "No space left on device", *named)

    with monkeypatch.context() as patched:
        patched.setattr(where, call, full)
        with pytest.raises(InputError) as error:
            deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    said = str(error.value)
    assert said.startswith(f"{root}: the disk of ")
    assert "is full (No space left on device, " in said
    assert "reid.onnx" not in said
    assert served(root) == before
    assert not (tmp_path / ".models.rtool-staging").exists()
    assert deploy(onnx_files["reid"], name="m", repository=root, device="cpu").version == (1 if new else 2)


def test_a_file_that_may_not_be_written_is_named(tmp_path, onnx_files, monkeypatch):
    def denied(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", str(source), None, str(target))

    monkeypatch.setattr(shutil, "copyfile", denied)
    with pytest.raises(InputError, match=r"rtool-staging.*model\.onnx: cannot be written \(Permission denied\)"):
        deploy(onnx_files["reid"], name="m", repository=tmp_path / "models", device="cpu")
