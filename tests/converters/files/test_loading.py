"""Whatever lies under a name ending in .onnx is told apart, and a damaged model is refused with the way out."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import load_onnx
from rtool.converters.files.model_file import source_of
from rtool.errors import InputError


def model(nodes=None, initializers=None, outputs=("y",)):
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"], name="add")]
    initializers = [numpy_helper.from_array(np.ones(3, np.float32), "w")] if initializers is None else initializers
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])  # noqa: E731
    graph = helper.make_graph(nodes, "g", [info("x")], [info(name) for name in outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\xff\xff\xff\xff not protobuf", "not one or are cut short"),
    ],
)
def test_other_files_named_onnx_are_told_apart(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_point_to_what_is_there(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"other\.onnx"):
        load_onnx(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="got a folder; give"):
        load_onnx(tmp_path)


def test_every_truncation_of_a_model_is_refused_or_is_a_whole_model(tmp_path):
    data = model().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            loaded = load_onnx(path)
        except InputError:
            continue
        assert [output.name for output in loaded.graph.outputs] == ["y"]


def test_names_must_be_defined_once():
    with pytest.raises(InputError, match="'missing' is defined nowhere"):
        load_onnx(model([helper.make_node("Add", ["x", "missing"], ["y"])]))
    twice = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]
    with pytest.raises(InputError, match="already defined"):
        load_onnx(model(twice))
    with pytest.raises(InputError, match="defined nowhere"):
        load_onnx(model(outputs=("z",)))


def test_weights_must_have_the_size_of_their_shape():
    stripped = numpy_helper.from_array(np.ones(3, np.float32), "w")
    stripped.ClearField("raw_data")
    with pytest.raises(InputError, match=r"shape \[3\] needs 3 numbers, got 0"):
        load_onnx(model(initializers=[stripped]))
    absurd = numpy_helper.from_array(np.ones(3, np.float32), "w")
    absurd.dims[0] = 1 << 40
    with pytest.raises(InputError, match="needs"):
        load_onnx(model(initializers=[absurd]))


def test_external_data_stays_inside_the_folder_and_complete(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load_onnx(path).graph.initializers["w"].const_value.numpy().tolist() == [1, 1, 1]
    (inside / "weights.bin").write_bytes(b"\0" * 8)
    with pytest.raises(InputError, match=r"expected bytes 0\.\.12"):
        load_onnx(path)
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(InputError, match="is missing"):
        load_onnx(path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../weights.bin"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="leaves the model's folder"):
        load_onnx(path)


def test_external_data_of_a_model_in_memory_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(InputError, match="give the path"):
        load_onnx(onnx.load(path, load_external_data=False))


def test_small_files_are_not_kept_open_and_have_the_digest_of_what_was_read(tmp_path, model_file):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_file.read_bytes())
    source = source_of(load_onnx(path))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"another file")
    assert source.digest == source.sha256 == expected


def test_a_bundle_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "graph.onnx").touch()
    (tmp_path / "bundle.json").touch()
    with pytest.raises(InputError, match="got a bundle"):
        load_onnx(tmp_path)
