"""What is written is never one of the files a model is made of, under whatever name; links are replaced, not followed.

CVE-2025-51480 and GHSA-q56x-g2fj-4rj6 are about writing external data where a model says. Nothing here does that: the
weights of every written file are inside it, and its name is the user's.
"""

import os
from pathlib import Path

import onnx
import pytest

from rtool.converters import export, load_onnx, onnx2torch, onnx_to_torch, write_back
from rtool.converters.files import atomic_file
from rtool.converters.files.atomic_file import check_file_output, serialised
from rtool.converters.files.external_data import external_locations
from rtool.converters.files.model_file import ModelFile
from rtool.errors import InputError

WRITERS = {
    "write_back": lambda path, output: write_back(onnx_to_torch(path), path, output),
    "export": lambda path, output: export(path, output, overwrite=True),
}


def names_of_data(split):
    """Every name under which the model's data could be hit."""
    data = split.folder / "weights.bin"
    (split.folder / "link.bin").symlink_to("weights.bin")
    (split.folder / "linked").symlink_to(".")
    return {
        "itself": data,
        "with dots": split.folder / "linked" / ".." / split.folder.name / "weights.bin",
        "by a link": split.folder / "link.bin",
        "by a linked folder": split.folder / "linked" / "weights.bin",
        "relative": Path(os.path.relpath(data)),
    }


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["itself", "with dots", "by a link", "by a linked folder", "relative"])
@pytest.mark.parametrize("carrier", ["initializer", "Constant", "function Constant"])
def test_the_data_of_the_source_is_never_written_to(split, carrier, writer, name):
    split.carrier = carrier
    path, output = split.write(), names_of_data(split)[name]
    before = (split.folder / "weights.bin").read_bytes()
    with pytest.raises(InputError, match="holds weights of the source, which is never modified"):
        WRITERS[writer](path, output)
    assert (split.folder / "weights.bin").read_bytes() == before


def test_a_second_hard_link_of_the_model_is_the_model(split):
    path = split.write()
    (split.folder / "second.onnx").hardlink_to(path)
    with pytest.raises(InputError, match="is the source itself"):
        check_file_output(split.folder / "second.onnx", sources=ModelFile.read(path).files)


def test_every_name_of_a_file_that_two_locations_name_is_protected(split):
    split.entries = {"location": "weights.bin"}
    proto = split.proto()
    extra = proto.graph.initializer.add()
    extra.CopyFrom(proto.graph.initializer[0])
    extra.name, extra.external_data[0].value = "v", "./weights.bin"
    split.path.write_bytes(proto.SerializeToString())
    files = ModelFile.read(split.path).files
    assert set(files) == {split.path, split.folder / "weights.bin"}
    with pytest.raises(InputError, match="holds weights"):
        check_file_output(split.folder / "weights.bin", sources=files)


def test_a_bundle_that_would_replace_the_data_is_refused(split, tmp_path):
    first = onnx2torch(split.write(), split.folder / "m.rtool").output
    (first / "weights.bin").write_bytes(split.content())
    split.entries = {"location": "m.rtool/weights.bin"}
    path = split.write()
    with pytest.raises(InputError, match=r"weights\.bin: lies in .*, which would be replaced"):
        onnx2torch(path, first, overwrite=True)
    assert (first / "weights.bin").read_bytes() == split.content()


@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_that_is_a_link_is_replaced_and_its_target_left_alone(split, tmp_path, writer):
    target, output = tmp_path / "victim", tmp_path / "out.onnx"
    target.write_bytes(b"untouched")
    output.symlink_to(target)
    WRITERS[writer](split.write(), output)
    assert target.read_bytes() == b"untouched"
    assert not output.is_symlink()
    assert not external_locations(onnx.load(output, load_external_data=False), "")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_written_model_is_whole_and_leaves_no_file_beside_it(split, tmp_path, writer):
    (tmp_path / "new").mkdir()
    WRITERS[writer](split.write(), tmp_path / "new" / "out.onnx")
    left = {file.name for file in (tmp_path / "new").iterdir()}
    assert left <= {"out.onnx", "out.onnx.manifest.json"}
    assert load_onnx(tmp_path / "new" / "out.onnx").graph.initializers["w"].const_value.tobytes() == split.content()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_model_too_large_for_one_file_is_refused_and_nothing_is_left(split, tmp_path, monkeypatch, writer):
    monkeypatch.setattr(atomic_file, "_LARGEST", 200)  # stands for the 2 GiB of protobuf
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match="larger than the 2 GiB one ONNX file can hold"):
        WRITERS[writer](split.write(), tmp_path / "new" / "out.onnx")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(InputError, match="larger than"):
        serialised(ModelFile.read(split.path).proto(), "m")
