"""Download caches that link each name to a blob are read; a link that leads out of the cache is not."""

import numpy as np
import pytest

from rtool.converters import OnnxRunner, export, inspect, load_onnx, onnx2torch
from rtool.converters.files.model_file import ModelFile
from rtool.errors import InputError


@pytest.fixture
def cache(tmp_path, split):
    """`snapshots/rev/model.onnx` and its data, both links into `blobs/`, as Hugging Face's hub stores them."""
    store = tmp_path / "models--org--m"
    snapshot, blobs = store / "snapshots" / "rev", store / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    split.entries = {"location": "model.onnx_data", "offset": "0", "length": "256"}
    (blobs / "aaa").write_bytes(split.proto().SerializeToString())
    (blobs / "bbb").write_bytes(split.content())
    (snapshot / "model.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bbb")
    return snapshot


def weight(path):
    return load_onnx(path).graph.initializers["w"].const_value.tobytes()


def test_a_model_in_a_linked_cache_is_read_by_every_reader(cache, split, tmp_path):
    path = cache / "model.onnx"
    assert weight(path) == split.content()
    x = np.eye(8, dtype=np.float32)
    expected = np.frombuffer(split.content(), np.float32).reshape(8, 8).T
    assert np.allclose(OnnxRunner(path).run(x)[0], expected)
    assert inspect(path).problems == ()
    assert onnx2torch(path, tmp_path / "m.rtool").parity
    assert export(path, tmp_path / "m.onnx", simplifier="none").path.exists()


def test_data_in_a_folder_of_the_snapshot_is_read_from_the_blobs(cache, split):
    split.entries["location"] = "onnx/model.onnx_data"
    (cache / "onnx").mkdir()
    (cache / "model.onnx_data").rename(cache / "onnx" / "moved")
    (cache / "onnx" / "model.onnx_data").symlink_to("../../../blobs/bbb")
    (cache.parents[1] / "blobs" / "aaa").write_bytes(split.proto().SerializeToString())
    assert weight(cache / "model.onnx") == split.content()


def test_a_link_to_the_model_alone_reads_the_data_beside_the_real_one(split, tmp_path):
    split.write()
    link = tmp_path / "link.onnx"
    link.symlink_to(split.path)
    assert weight(link) == split.content()
    assert np.allclose(OnnxRunner(link).run(np.eye(8, dtype=np.float32))[0].T.reshape(-1)[:3], [0, 1 / 64, 2 / 64])
    assert ModelFile.read(link).files == (link, split.folder / "weights.bin")


def test_a_linked_folder_reads_what_is_in_it(split, tmp_path):
    split.write()
    (tmp_path / "linked").symlink_to(split.folder)
    assert weight(tmp_path / "linked" / "model.onnx") == split.content()


def test_two_names_of_one_blob_are_two_names_of_one_file(cache, split):
    (cache / "again").symlink_to("../../blobs/bbb")
    proto = split.proto()
    extra = proto.graph.initializer.add()
    extra.CopyFrom(proto.graph.initializer[0])
    extra.name, extra.external_data[0].value = "v", "again"
    (cache.parents[1] / "blobs" / "aaa").write_bytes(proto.SerializeToString())
    loaded = load_onnx(cache / "model.onnx").graph.initializers
    assert loaded["v"].const_value.tobytes() == loaded["w"].const_value.tobytes() == split.content()
    assert {file.name for file in ModelFile.read(cache / "model.onnx").files} == {
        "model.onnx",
        "again",
        "model.onnx_data",
    }


@pytest.mark.parametrize(
    "target",
    [
        "../../../outside/secret.bin",
        "../../../other--model/blobs/bbb",
        "../../blobs/folder/secret.bin",  # below the blobs, where no cache puts one
        "../../blobs/link",
        "../../refs",
        "../other/secret.bin",
        "/proc/self/environ",
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(cache, split, tmp_path, target):
    store = cache.parents[1]
    for folder in (store / "blobs" / "folder", store / "snapshots" / "other", tmp_path / "other--model" / "blobs"):
        folder.mkdir(parents=True)
        for name in ("secret.bin", "bbb"):
            (folder / name).write_bytes(split.content())
    (store / "refs").write_bytes(split.content())
    (store / "blobs" / "link").symlink_to(split.secret)
    (cache / "model.onnx_data").unlink()
    (cache / "model.onnx_data").symlink_to(target)
    for read in (load_onnx, OnnxRunner, inspect):
        with pytest.raises(InputError, match="is a link that leaves the model's folder"):
            read(cache / "model.onnx")


def test_a_copied_model_beside_linked_data_is_refused(cache):
    """The store is where the model's own link leads; a model that is not a link has none."""
    content = (cache / "model.onnx").read_bytes()
    (cache / "model.onnx").unlink()
    (cache / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match="is a link that leaves the model's folder"):
        load_onnx(cache / "model.onnx")


def test_a_blob_with_a_second_hard_link_is_refused(cache):
    blob = cache.parents[1] / "blobs" / "bbb"
    (blob.parent / "ccc").hardlink_to(blob)
    with pytest.raises(InputError, match="2 hard links"):
        load_onnx(cache / "model.onnx")
