"""Hostile models, bundles, configurations, repositories and data sets."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from payloads import Case, archive, pickled, planted, python, shell, system
from PIL import Image

import rtool

DEEP = "[" * 100_000


def graph(*extra: onnx.NodeProto, weight: onnx.TensorProto | None = None) -> onnx.ModelProto:
    values = np.ones((4, 3, 3, 3), np.float32)
    weight = weight or onnx.numpy_helper.from_array(values, "w")
    nodes = [*extra, helper.make_node("Conv", [extra[0].output[0] if extra else "x", "w"], ["c"], name="conv")]
    nodes += [helper.make_node("GlobalAveragePool", ["c"], ["y"], name="pool")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "g", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def models(folder: Path, marker: Path) -> Iterator[Case]:
    def case(name: str, content: bytes, *command: str, refused: bool = True) -> Case:
        path = folder / f"{name}.onnx"
        path.write_bytes(content)
        return Case("ONNX", name, path, refused, command)

    yield case("honest", graph().SerializeToString(), refused=False)
    yield case("pickle", pickled(marker), "inspect", "FILE")
    library = helper.make_node("Load", ["x"], ["l"], name="load", domain="evil", library=str(marker))
    yield case("custom_operator", graph(library).SerializeToString(), "onnx2torch", "FILE", "-o", "out.rtool")
    for name, location in (("absolute", "/etc/passwd"), ("parent", "../../../../../../etc/passwd")):
        tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3, 3, 3])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        yield case(f"external_{name}", graph(weight=tensor).SerializeToString())
    stated = graph()
    stated.metadata_props.add(key="rtool.preprocessing", value=DEEP)
    yield case("metadata_deep", stated.SerializeToString())


def bundles(folder: Path, marker: Path) -> Iterator[Case]:
    onnx.save(graph(), folder / "bundle_source.onnx")
    rtool.onnx2torch(folder / "bundle_source.onnx", folder / "honest.rtool")
    yield Case("bundle", "honest", folder / "honest.rtool", refused=False)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder / "honest.rtool", folder / f"{name}.rtool"))

    path = copy("code")
    (path / "model.py").write_text(f"{python(marker)}\n", encoding="utf-8")
    (path / "__init__.py").write_text(f"{python(marker)}\n", encoding="utf-8")
    yield Case("bundle", "code", path, refused=False, command=("inspect", "FILE"))
    path = copy("weights")
    (path / "weights.safetensors").write_bytes(pickled(marker))
    yield Case("bundle", "weights", path)
    path = copy("deep")
    (path / "bundle.json").write_text(DEEP, encoding="utf-8")
    yield Case("bundle", "deep", path, command=("inspect", "FILE"))
    path = copy("twice")
    text = (path / "bundle.json").read_text(encoding="utf-8")
    (path / "bundle.json").write_text('{"format": 0, ' + text.lstrip()[1:], encoding="utf-8")
    yield Case("bundle", "twice", path)
    path = copy("graph")
    (path / "graph.onnx").write_bytes(pickled(marker))
    yield Case("bundle", "graph", path)

    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copytree(folder / "code.rtool", run / "checkpoints" / "best.rtool")
    (run / "config.yaml").write_text(f"!!python/object/apply:os.system ['{shell(marker)}']", encoding="utf-8")
    yield Case("run folder", "code", run, refused=False)
    run = Path(shutil.copytree(run, folder / "run_weights"))
    (run / "checkpoints/best.rtool/weights.safetensors").write_bytes(pickled(marker))
    yield Case("run folder", "weights", run)
    checkpoint = copy("checkpoint")
    (checkpoint / "training.json").write_text(DEEP, encoding="utf-8")
    yield Case("checkpoint", "deep", checkpoint)
    (folder / "state.safetensors").write_bytes(pickled(marker))
    yield Case("calibration state", "pickle", folder / "state.safetensors")


def repositories(folder: Path, marker: Path) -> Iterator[Case]:
    root = folder / "repository"
    version = root / "evil" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(f"{python(marker)}\n", encoding="utf-8")
    (root / "evil" / "config.pbtxt").write_text(
        'name: "evil"\nbackend: "python"\nmax_batch_size: 1\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [1] }\noutput { name: "y" data_type: TYPE_FP32 dims: [1] }\n',
        encoding="utf-8",
    )
    yield Case("model repository", "code", root, refused=False)
    copy = Path(shutil.copytree(root, folder / "repository_manifest"))
    (copy / "evil/1/manifest.json").write_text(DEEP, encoding="utf-8")
    yield Case("model repository", "manifest", copy)
    copy = Path(shutil.copytree(root, folder / "repository_config"))
    (copy / "evil" / "config.pbtxt").write_bytes(pickled(marker))
    yield Case("model repository", "config", copy)


def texts(folder: Path, marker: Path) -> Iterator[Case]:
    apply = f"!!python/object/apply:os.system ['{shell(marker)}']"
    levels = "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for name, text in {
        "apply": f"model: {apply}",
        "module": "model: !!python/module:planted_module_3b1f",
        "object": "model: !!python/object/new:subprocess.Popen [[true]]",
        "aliases": f"a: &a [x,x,x,x,x,x,x,x,x]\n{levels}",
        "deep": "[" * 20_000,
    }.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        command = ("finetune", "FILE", "--dry-run") if name in ("apply", "deep") else ()
        yield Case("configuration", name, path, command=command)
    for name, text, refused in (
        ("statement", f"config = dict()\n{python(marker)}\n", True),
        ("condition", f"config = dict()\nif {python(marker)}:\n    config.lr = 1\n", True),
        ("value", f"config = dict()\nconfig.lr_func = {python(marker)}\n", False),
        ("default", f"config = dict()\ndef step(x={python(marker)}): ...\nconfig.lr_func = step\n", False),
        ("deep", f"config = {'[' * 20_000}\n", True),
    ):
        path = folder / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        yield Case("other trainers' configuration", name, path, refused=refused)
    path = folder / "solver.yaml"
    path.write_text(f"SOLVER: {apply}", encoding="utf-8")
    yield Case("other trainers' configuration", "apply", path)
    (folder / "evaluated.json").write_text(f"Genotype(normal={python(marker)})", encoding="utf-8")
    yield Case("genotype", "evaluated", folder / "evaluated.json")
    plain = (
        ("params.json", "params"),
        ("preprocessing", "preprocessing"),
        ("genotype", "cell"),
        ("latency table", "costs"),
    )
    for kind, name in plain:
        path = folder / f"{name}.json"
        path.write_text(DEEP, encoding="utf-8")
        yield Case(kind, "deep", path)
    (folder / "twice.json").write_text('{"height": 1, "height": 2}', encoding="utf-8")
    yield Case("preprocessing", "twice", folder / "twice.json")


def arrays(folder: Path, marker: Path) -> Iterator[Case]:
    objects = np.array([system(marker)], dtype=object)
    np.savez(folder / "objects.npz", a=objects)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    header = f"{{'descr': {python(marker)}, 'fortran_order': False, 'shape': (1,), }}".encode()
    (folder / "header.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (folder / "huge.npz").write_bytes(archive({"a.npy": huge}, root=""))
    for name in ("objects.npz", "objects.npy", "header.npy", "huge.npz"):
        yield Case("arrays", name, folder / name)


def data_sets(folder: Path, marker: Path) -> Iterator[Case]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    image = buffer.getvalue()
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%{shell(marker)}) (w) file\n"
    (folder / "postscript.jpg").write_text(script, encoding="ascii")
    yield Case("image", "postscript", folder / "postscript.jpg")
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (folder / "bomb.png").write_bytes(image[:16] + size + b"\0\0\0\0" + image[33:])
    yield Case("image", "bomb", folder / "bomb.png")
    for name, entries in {
        "traversal": {"../../../escaped.png": image, "../../../escaped.cls": b"a", "b.png": image, "b.cls": b"b"},
        "deep": {"a.png": image, "a.json": DEEP.encode(), "b.png": image, "b.cls": b"b"},
    }.items():
        path = folder / f"{name}.tar"
        with tarfile.open(path, "w") as tar:
            for member, content in entries.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        yield Case("tar shards", name, path, refused=name == "deep")
    (folder / "pairs.bin").write_bytes(pickle.dumps(([system(marker)], [True]), 4))
    yield Case("verification pairs", "payload", folder / "pairs.bin", command=("evaluate", "osnet_x0_25", "FILE"))
    (folder / "import.bin").write_bytes(planted())
    yield Case("verification pairs", "import", folder / "import.bin")
    rows = folder / "rows.jsonl"
    rows.write_text(DEEP + "\n", encoding="utf-8")
    yield Case("manifest", "deep", rows)
    (folder / "records").mkdir()
    (folder / "records/train.rec").write_bytes(pickled(marker))
    (folder / "records/train.idx").write_text("0\t9223372036854775807\n", encoding="ascii")
    yield Case("RecordIO", "offset", folder / "records/train.rec")
