"""External data of the model's own: found wherever the format lets it be, read once, and only as it was checked."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from rtool.converters import OnnxRunner, inspect, load_onnx, onnx_to_torch, write_back
from rtool.converters.files import external_data
from rtool.converters.files.external_data import (
    external_locations,
    find_external_data,
)
from rtool.converters.files.model_file import ModelFile
from rtool.errors import InputError

SPARSE = ("Constant values", "Constant indices", "initializer values", "initializer indices", "attribute list")


def test_the_data_of_every_place_is_found_and_read(split, carrier):
    split.carrier = carrier
    (split.folder / "weights.bin").write_bytes(b"\1" * 8 + split.content())
    split.entries = {"location": "weights.bin", "offset": "8", "length": str(split.size())}
    proto = split.proto()
    assert external_locations(proto, "")
    assert external_locations(proto, "m") == ("'weights.bin'",)
    whole = ModelFile.read(split.write()).proto()
    assert not external_locations(whole, "")
    assert split.content() in whole.SerializeToString()


def test_what_was_checked_fills_a_copy_and_leaves_the_original(split, carrier):
    split.carrier = carrier
    proto, copy = split.proto(), split.proto()
    found = find_external_data(proto, "m", split.write())
    assert found.files == (split.folder / "weights.bin",)
    found.fill(copy)
    assert proto == split.proto()
    assert not external_locations(copy, "")
    (split.folder / "weights.bin").write_bytes(b"\0" * 4096)
    with pytest.raises(InputError, match="changed while reading"):
        found.fill(proto)


@pytest.mark.parametrize("carrier", [f"sparse {name}" for name in SPARSE])
def test_sparse_tensors_are_refused_by_name_instead_of_being_dropped(split, carrier):
    split.carrier = carrier
    path = split.write()
    for read in (load_onnx, onnx_to_torch, inspect):
        with pytest.raises(InputError, match="sparse tensors are not supported; export the model with dense weights"):
            read(path)


RUNNABLE = ("initializer", "Constant", "function Constant", "attribute")


@pytest.mark.parametrize("carrier", RUNNABLE)
def test_a_sound_model_converts_runs_and_writes_back(split, carrier):
    split.carrier = carrier
    path = split.write()
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    weight = np.frombuffer(split.content(), np.float32)
    expected = x + weight[0] if carrier == "attribute" else x @ weight.reshape(8, 8).T
    assert np.allclose(OnnxRunner(path).run(x)[0], expected, atol=1e-6)
    torch = pytest.importorskip("torch")
    module = onnx_to_torch(path)
    assert np.allclose(module(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-6)
    if carrier != "attribute":
        written = write_back(module, path)
        assert not external_locations(written, "")
        assert np.allclose(OnnxRunner(written).run(x)[0], expected, atol=1e-6)


def test_weights_in_many_files_are_read(split, monkeypatch):
    monkeypatch.setattr(external_data, "_KEPT_OPEN", 2)
    proto = onnx.ModelProto()
    proto.CopyFrom(split.proto())
    for index in range(20):
        (split.folder / f"{index}.bin").write_bytes(np.full(64, index, np.float32).tobytes())
        extra = proto.graph.initializer.add()
        extra.CopyFrom(proto.graph.initializer[0])
        extra.name, extra.external_data[0].value = f"w{index}", f"{index}.bin"
    split.path.write_bytes(proto.SerializeToString())
    initializers = load_onnx(split.path).graph.initializers
    assert [initializers[f"w{index}"].const_value.numpy()[0, 0] for index in range(20)] == list(range(20))


def large(split):
    """A model whose weight stays in its file until it is read: 2 MiB."""
    proto = split.proto()
    proto.graph.initializer[0].dims[:] = [1 << 16, 8]
    (split.folder / "weights.bin").write_bytes(np.arange(1 << 19, dtype=np.float32).tobytes())
    split.path.write_bytes(proto.SerializeToString())
    return split.path


def test_a_large_weight_is_read_from_the_file_that_was_checked(split):
    loaded = load_onnx(large(split))
    (split.folder / "weights.bin").rename(split.folder / "moved.bin")
    (split.folder / "weights.bin").symlink_to(split.secret)
    weight = loaded.graph.initializers["w"].const_value.numpy()
    assert np.array_equal(weight.reshape(-1), np.arange(1 << 19, dtype=np.float32))


def test_a_large_weight_that_was_written_to_is_refused(split):
    loaded = load_onnx(large(split))
    (split.folder / "weights.bin").write_bytes(b"\0" * (1 << 21))
    os.utime(split.folder / "weights.bin", ns=(1, 1))
    with pytest.raises(InputError, match="changed while reading"):
        loaded.graph.initializers["w"].const_value.numpy()


@pytest.mark.parametrize("swap", ["file", "folder"])
def test_a_link_that_appears_between_check_and_use_is_not_followed(split, monkeypatch, swap):
    (split.folder / "sub").mkdir()
    (split.folder / "sub" / "secret.bin").write_bytes(split.content())
    split.entries = {"location": "sub/secret.bin"}
    path, resolve = split.write(), os.path.realpath

    def then_swap(name, **options):
        found = resolve(name, **options)
        if options.get("strict"):
            (split.folder / "sub" / "secret.bin").unlink()
            if swap == "file":
                (split.folder / "sub" / "secret.bin").symlink_to(split.secret)
            else:
                (split.folder / "sub").rmdir()
                (split.folder / "sub").symlink_to(split.secret.parent)
        return found

    monkeypatch.setattr(os.path, "realpath", then_swap)
    with pytest.raises(InputError, match="a link that was not there a moment ago"):
        load_onnx(path)


def test_more_than_the_memory_of_the_machine_is_refused_before_it_is_read(split, monkeypatch):
    proto = split.proto()
    proto.graph.initializer[0].dims[:] = [1 << 38]
    split.path.write_bytes(proto.SerializeToString())
    with (split.folder / "weights.bin").open("wb") as file:
        file.truncate(1 << 40)  # sparse: takes no space on the disk
    with pytest.raises(InputError, match=r"needs 1024\.0 GiB, this machine has"):
        load_onnx(split.path)
    proto.graph.initializer[0].dims[:] = [1 << 62] * 2000
    split.path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="absurdly large"):
        load_onnx(split.path)


@pytest.mark.parametrize("dtype", [TensorProto.UNDEFINED, TensorProto.STRING, 99])
def test_types_that_no_data_file_holds_are_refused(split, dtype):
    proto = split.proto()
    proto.graph.initializer[0].data_type = dtype
    split.path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"cannot be external data|unknown data type"):
        load_onnx(split.path)


def test_data_inside_and_outside_is_refused(split):
    proto = split.proto()
    proto.graph.initializer[0].raw_data = split.content()
    split.path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="in another file and in raw_data too"):
        load_onnx(split.path)


@pytest.mark.parametrize("dtype", [TensorProto.INT4, TensorProto.BFLOAT16, TensorProto.INT64])
def test_other_types_are_read_bit_for_bit(split, dtype):
    proto = split.proto()
    proto.graph.initializer[0].data_type = dtype
    size = 64 * {TensorProto.INT4: 4, TensorProto.BFLOAT16: 16, TensorProto.INT64: 64}[dtype] // 8
    content = np.random.default_rng(0).bytes(size)
    (split.folder / "weights.bin").write_bytes(content)
    split.path.write_bytes(proto.SerializeToString())
    assert load_onnx(split.path).graph.initializers["w"].const_value.tobytes() == content


def test_the_stated_checksum_of_the_right_file_passes(split):
    import hashlib

    data = (split.folder / "weights.bin").read_bytes()
    split.entries = {"location": "weights.bin", "checksum": hashlib.sha1(data).hexdigest().upper()}
    assert load_onnx(split.write()).graph.initializers["w"].const_value.tobytes() == split.content()


def test_nothing_of_onnx_that_had_an_archive_or_hub_fault_is_used():
    """CVE-2024-5187 (model archives) and CVE-2026-28500 (`onnx.hub`): neither can be reached from here."""
    from pathlib import Path

    import rtool

    root = Path(rtool.__file__).resolve().parent
    for room in ("cli", "converters", "finetune", "serving", "benchmarks"):
        for file in (root / room).rglob("*.py"):
            text = file.read_text()
            assert "onnx.hub" not in text, file
            assert "download_model_with_test_data" not in text, file
