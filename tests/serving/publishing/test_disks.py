"""A disk that is full or read-only is named, not the file that was to be published."""

import errno
import os
import shutil

import pytest

from rtool.errors import InputError
from rtool.serving import deploy, rollback

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


def files(root) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in tree(root) if (root / name).is_file()}


@pytest.mark.parametrize("act", ["publish", "rollback"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_disk_that_fails_between_two_configurations_leaves_all_as_it_was(
    tmp_path, onnx_files, make_model, monkeypatch, act, after
):
    root = tmp_path / "models"
    other = make_model("reid", tmp_path / "other.onnx", seed=3)
    for model in (onnx_files["reid"], other):
        deploy(model, name="m", repository=root, device="cpu")
    before, replace, calls = files(root), os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == after:
            raise OSError(errno.EIO, "Input/output error", str(source), None, str(target))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        with pytest.raises(InputError, match="cannot be written"):
            rollback("m", repository=root) if act == "rollback" else deploy(other, name="m", repository=root)
    assert len(calls) > after  # what had been replaced was put back
    assert files(root) == before


def test_a_damaged_manifest_is_named_with_a_way_out_that_works(tmp_path, onnx_files):
    root = tmp_path / "models"
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    manifest = root / "m/1/manifest.json"
    manifest.write_text("[]")
    with pytest.raises(
        InputError, match="expected a JSON object, got list; restore it, or remove this file and publish"
    ):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    manifest.unlink()
    assert deploy(onnx_files["reid"], name="m", repository=root, device="cpu").version == 2


@pytest.mark.parametrize("how", ["writable by others", "a link", "another user's"])
def test_a_staging_folder_that_others_can_write_is_refused(tmp_path, onnx_files, monkeypatch, how):
    """They could exchange what is published, code among it."""
    root, staging = tmp_path / "models", tmp_path / ".models.rtool-staging"
    monkeypatch.setattr("rtool.serving.publishing.publication._remove", lambda _: None)  # as of a tree of others
    if how == "a link":
        (tmp_path / "else").mkdir()
        staging.symlink_to(tmp_path / "else", target_is_directory=True)
    else:
        staging.mkdir()
        staging.chmod(0o777 if how == "writable by others" else 0o755)
    if how == "another user's":
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InputError, match="others made it or may write it"):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    assert not (root / "m").exists()


def test_versions_are_staged_where_nobody_else_can_write(tmp_path, onnx_files, monkeypatch):
    seen = []
    copy = shutil.copyfile

    def copied(source, target, **more):
        seen.append((tmp_path / ".models.rtool-staging").stat().st_mode & 0o777)
        return copy(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", copied)
    deploy(onnx_files["reid"], name="m", repository=tmp_path / "models", device="cpu")
    assert seen
    assert set(seen) == {0o700}
    assert (tmp_path / "models/m/1").stat().st_mode & 0o755 == 0o755
