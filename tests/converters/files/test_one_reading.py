"""A command opens and reads a model file once; inotify counts, which sees ONNX Runtime's own opens too."""

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.cli.main import run
from rtool.converters import load_model, onnx_to_torch, open_runner, save_bundle, write_back
from rtool.converters.files.model_file import ModelFile
from rtool.errors import InputError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.network.networks import load_network

_ACCESS, _CLOSED, _OPEN = 0x1, 0x10, 0x20
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="inotify and /proc/self/io are Linux's")


class Watch:
    """Counts how often files are opened, by whatever code of whatever language."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        # The other events keep the kernel from merging two opens into one.
        if self._libc.inotify_add_watch(self._handle, os.fsencode(path), _OPEN | _CLOSED | _ACCESS) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))

    def opens(self) -> int:
        try:
            events = os.read(self._handle, 1 << 20)
        except BlockingIOError:
            return 0
        masks = []
        while events:
            _, mask, _, length = struct.unpack_from("iIII", events)
            masks.append(mask)
            events = events[16 + length :]
        return sum(bool(mask & _OPEN) for mask in masks)

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def counted(path: Path):
    watch = Watch(path)
    try:
        yield watch
    finally:
        watch.close()


def network(width: int = 24, weight: float = 0.1) -> onnx.ModelProto:
    """Images [N, 3, 16, 8] to embeddings [N, 4]; a width of 400 makes a weight of 2.3 MB."""
    values = np.random.default_rng(0).standard_normal
    weights = [
        numpy_helper.from_array((weight * values((width, 3, 3, 3))).astype(np.float32), "stem.weight"),
        numpy_helper.from_array(values(width).astype(np.float32), "stem.bias"),
        numpy_helper.from_array((weight * values((width, width, 3, 3))).astype(np.float32), "conv.weight"),
        numpy_helper.from_array((weight * values((width, 4))).astype(np.float32), "head.weight"),
    ]
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight", "stem.bias"], ["a"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "conv.weight"], ["c"], name="conv"),
        helper.make_node("ReduceMean", ["c"], ["d"], name="mean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["d", "head.weight"], ["embedding"], name="head"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 8])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "g", [images], [embedding], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(params=["small", "large"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file whose weights are all below the size from which they are mapped, and one above it."""
    path = tmp_path / "m.onnx"
    onnx.save(network(24 if request.param == "small" else 400), path)
    return path


def recipe(path: Path) -> Path:
    """A configuration of a run that finds its model in the command."""
    file = path.with_name("recipe.yaml")
    file.write_text(f"data: {{train: '{PEOPLE}', evaluate: '{PEOPLE}', batch: 8}}\nlosses: [{{kind: arcface}}]\n")
    return file


def twin(path: Path) -> Path:
    """Another file of the same inputs and outputs."""
    onnx.save(network(), path.with_name("twin.onnx"))
    return path.with_name("twin.onnx")


PEOPLE = "synthetic-people:identities=4,images=8,seed=2,size=16x8"
COMMANDS: dict[str, Callable[[Path], object]] = {
    "inspect": rtool.inspect,
    "onnx2torch": lambda path: rtool.onnx2torch(path, path.with_suffix(".rtool")),
    "onnx2torch --batch": lambda path: rtool.onnx2torch(path, path.with_suffix(".rtool"), batch=4),
    "onnx2torch --restore-bn --calibrate": lambda path: run(
        ["onnx2torch", str(path), "-o", str(path.with_suffix(".rtool")), "--restore-bn", "--calibrate", PEOPLE, "-q"]
    ),
    "export": lambda path: rtool.export(path, path.with_name("out.onnx")),
    "export --fp16 --batch": lambda path: rtool.export(path, path.with_name("out.onnx"), fp16=True, batch=2),
    "export --calibrate": lambda path: run(
        ["export", str(path), "-o", str(path.with_name("out.onnx")), "--calibrate", PEOPLE, "-q"]
    ),
    "export --format pt2": lambda path: rtool.export(path, path.with_name("out.pt2"), format="pt2"),
    "evaluate": lambda path: rtool.evaluate(path, PEOPLE, preprocessing="imagenet"),
    "finetune's model": lambda path: load_network(ModelConfig(reference=str(path))),
    "onnx_to_torch": onnx_to_torch,
    "open_runner": open_runner,
    "finetune --dry-run": lambda path: run(
        ["finetune", str(recipe(path)), f"model.reference={path}", "--dry-run", "-q"]
    ),
    "bench parity": lambda path: rtool.bench.parity(path, twin(path)),
    "deploy": lambda path: rtool.deploy(path, name="m", repository=path.with_name("models"), force=True),
    "write_back": lambda path: write_back(onnx_to_torch(ModelFile.read(path)), path),
}
OPENED_TWICE = {
    "deploy": "read, then copied into the repository, where the copy must have the SHA-256 of what was read",
    "write_back": "two calls: the first converts, the second writes back",
}


@ON_LINUX
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_opens_the_file_once(command: str, model: Path):
    with counted(model) as watch:
        COMMANDS[command](model)
        assert watch.opens() == (2 if command in OPENED_TWICE else 1)


@ON_LINUX
@pytest.mark.parametrize("command", ["export", "inspect", "onnx2torch"])
def test_a_command_reads_the_bytes_of_the_file_once(command: str, tmp_path: Path):
    path = tmp_path / "m.onnx"
    onnx.save(network(900), path)  # 29 MB, beside which what else is read does not count
    COMMANDS[command](path)  # imports what it imports
    for made in (path.with_suffix(".rtool"), path.with_name("out.onnx"), path.with_name("out.onnx.manifest.json")):
        if made.exists():
            made.rename(made.with_name(f"first-{made.name}"))
    before = bytes_read()
    COMMANDS[command](path)
    # `onnx2torch` also reads the weights that it wrote, for the digest that the proof of the batch is bound to.
    times = 2 if command == "onnx2torch" else 1
    assert times <= (bytes_read() - before) / path.stat().st_size < times + 0.2


def bytes_read() -> int:
    """What this process has read by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


@ON_LINUX
def test_a_bundle_is_read_once_too(model: Path, tmp_path: Path):
    bundle = save_bundle(onnx_to_torch(model), tmp_path / "m.rtool", source=model)
    watches = {name: Watch(bundle / name) for name in ("graph.onnx", "bundle.json", "weights.safetensors")}
    rtool.export(bundle, tmp_path / "out.onnx")
    counts = {name: watch.opens() for name, watch in watches.items()}
    for watch in watches.values():
        watch.close()
    # `is_bundle` looks at bundle.json without opening it; safetensors opens its file to read the header, then maps it.
    assert counts["graph.onnx"] == counts["bundle.json"] == 1
    assert counts["weights.safetensors"] <= 2


@ON_LINUX
def test_inspecting_a_bundle_opens_its_weights_once(model: Path, tmp_path: Path):
    bundle = save_bundle(onnx_to_torch(model), tmp_path / "m.rtool", source=model)
    with counted(bundle / "weights.safetensors") as watch:
        rtool.inspect(bundle)
        assert watch.opens() == 1


def test_calibrating_an_export_converts_once(model: Path, monkeypatch: pytest.MonkeyPatch):
    converted = []
    original = rtool.converters.lowering.conversion._convert
    monkeypatch.setattr(
        "rtool.converters.lowering.conversion._convert",
        lambda *arguments: converted.append(1) or original(*arguments),
    )
    assert COMMANDS["export --calibrate"](model) == 0
    assert len(converted) == 1


# -- a file that changes while a command runs ------------------------------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Call `change` in the middle of every command: when the module was just converted."""
    original = rtool.converters.lowering.conversion._convert

    def convert(*arguments):
        module = original(*arguments)
        change()
        return module

    monkeypatch.setattr("rtool.converters.lowering.conversion._convert", convert)


def replace(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_command_goes_on_with_the_bytes_that_it_read_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
):
    expected = rtool.export(model, tmp_path / "before.onnx", strip_metadata=True)
    images = np.zeros((2, 3, 16, 8), np.float32)
    outputs = open_runner(model).run(images)
    other = network(30, weight=0.2).SerializeToString()
    during(monkeypatch, lambda: model.write_bytes(other) if in_place else replace(model, other))
    first = model.read_bytes()
    result = rtool.export(model, tmp_path / "after.onnx", strip_metadata=True)
    assert model.read_bytes() == other
    assert result.source_sha256 == expected.source_sha256
    assert onnx.load(result.path).graph == onnx.load(expected.path).graph
    model.write_bytes(first)
    bundle = rtool.onnx2torch(model, tmp_path / "after.rtool")
    assert bundle.sha256 == expected.source_sha256
    np.testing.assert_allclose(open_runner(bundle.output).run(images)[0], outputs[0], rtol=0, atol=1e-5)
    model.write_bytes(first)
    assert rtool.inspect(model).sha256 == expected.source_sha256


def test_a_mapped_file_that_is_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "m.onnx"
    onnx.save(network(400), path)
    during(monkeypatch, lambda: os.utime(path, ns=(0, 0)))
    with pytest.raises(InputError, match=r"m\.onnx: changed while reading"):
        onnx_to_torch(path)


def test_a_file_that_grows_while_its_bytes_are_read_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch):
    from rtool.converters.records.file_digest import OpenFile

    original = OpenFile.read_all

    def read_all(self: OpenFile) -> bytes:
        data = original(self)
        with model.open("ab") as file:
            file.write(b"x")
        return data

    monkeypatch.setattr(OpenFile, "read_all", read_all)
    with pytest.raises(InputError, match=r"changed while reading: expected .*, got .*; .* run the command again"):
        ModelFile.read(model)


@pytest.mark.parametrize("command", ["export", "export --format pt2", "onnx2torch", "inspect", "open_runner"])
def test_external_data_that_changes_is_refused_and_nothing_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "m.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = (tmp_path / "weights.bin").read_bytes()

    def change() -> None:
        replace(tmp_path / "weights.bin", bytes(len(weights)))

    during(monkeypatch, change)
    if command == "open_runner":  # ONNX Runtime opens these files itself
        original = ModelFile.proto
        monkeypatch.setattr(ModelFile, "proto", lambda self, **options: (original(self, **options), change())[0])
    there = sorted(entry.name for entry in tmp_path.iterdir())
    if command == "inspect":
        assert any(
            "weights.bin: changed while reading" in problem for problem in rtool.inspect(path, verify=True).problems
        )
    else:
        with pytest.raises(InputError, match=r"weights\.bin: changed while reading"):
            COMMANDS[command](path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == there


def test_external_data_gives_the_numbers_of_one_file(tmp_path: Path):
    whole, split = tmp_path / "whole.onnx", tmp_path / "split" / "m.onnx"
    split.parent.mkdir()
    onnx.save(network(), whole)
    onnx.save(network(), split, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert ModelFile.read(split).files == (split, split.parent / "weights.bin")
    assert ModelFile.read(split).proto().graph.node == ModelFile.read(whole).proto().graph.node
    expected, got = onnx_to_torch(whole).state_dict(), load_model(split).module.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in got.items())
    result = rtool.export(split, tmp_path / "out.onnx")
    images = np.ones((2, 3, 16, 8), np.float32)
    np.testing.assert_array_equal(open_runner(result.path).run(images)[0], open_runner(split).run(images)[0])
    np.testing.assert_array_equal(open_runner(whole).run(images)[0], open_runner(split).run(images)[0])


def external(name: str, location: str, folder: Path) -> onnx.TensorProto:
    """A weight of 2 x 2 zeros in a file of its own."""
    (folder / location).write_bytes(bytes(16))
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_weights_of_graph_constants_and_branches_belong_to_the_files_of_a_model(tmp_path: Path):
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2])

    branches = {
        f"{which}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["c", f"w_{which}"], [which])],
            which,
            [],
            [value(which)],
            [external(f"w_{which}", f"{which}.bin", tmp_path)],
        )
        for which in ("then", "else")
    }
    nodes = [
        helper.make_node("Constant", [], ["k"], value=external("", "constant.bin", tmp_path)),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["c"]),
        helper.make_node("If", ["flag"], ["y"], **branches),
    ]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    weights = [external("w", "weights.bin", tmp_path)]
    graph = helper.make_graph(nodes, "model", [value("x"), flag], [value("y")], weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    files = ModelFile.read(path).files
    assert files[0] == path
    assert {file.name for file in files[1:]} == {"weights.bin", "constant.bin", "then.bin", "else.bin"}


@ON_LINUX
def test_a_state_dict_is_opened_once_too(model: Path, tmp_path: Path):
    weights = tmp_path / "fused.pth"
    torch.save(onnx_to_torch(model).state_dict(), weights)
    with counted(weights) as watch:
        rtool.onnx2torch(model, tmp_path / "m.rtool", weights=weights)
        assert watch.opens() == 1
