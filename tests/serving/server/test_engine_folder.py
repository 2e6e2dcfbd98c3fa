"""Engines are code: the folder that TensorRT takes them from is the user's alone, or nothing is served."""

import os

import pytest

from rtool.errors import PlatformError
from rtool.serving.server.engine_folder import own_engine_folder


@pytest.fixture
def places(tmp_path):
    """The folder of the engines, and a configuration that names it."""
    folder = tmp_path / "engines"
    config = tmp_path / "trt.pbtxt"
    config.write_text(f'parameters {{ key: "trt_engine_cache_path" value: "{folder}/0123" }}')
    return folder, config


def test_the_folder_is_made_for_the_user_alone_and_only_where_it_is_named(places, tmp_path):
    folder, config = places
    (tmp_path / "cpu.pbtxt").write_text('backend: "onnxruntime"')
    own_engine_folder(folder, [tmp_path / "cpu.pbtxt", tmp_path / "absent.pbtxt"])
    assert not folder.exists()
    own_engine_folder(folder, [config])
    assert folder.stat().st_mode & 0o777 == 0o700
    own_engine_folder(folder, [config])


def test_a_folder_that_others_may_write_to_is_refused(places):
    folder, config = places
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PlatformError, match="may be written by other users, and TensorRT would run"):
        own_engine_folder(folder, [config])


def test_a_link_is_refused(places, tmp_path):
    folder, config = places
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(PlatformError, match="is not a folder"):
        own_engine_folder(folder, [config])


def test_another_users_folder_is_refused(places, monkeypatch):
    folder, config = places
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PlatformError, match="belongs to another user"):
        own_engine_folder(folder, [config])
