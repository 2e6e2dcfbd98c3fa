"""Tiny models of every kind that is served, one repository of them, and one real Triton for the session."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.serving import TritonServer, deploy, deploy_packer

Batch = int | str


def save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes, "tiny", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return exported(path)


def exported(path: Path) -> Path:
    """Write beside `path` what `rtool export` does: a manifest that names the file and a gate that was met."""
    step = {"name": "write-back", "max_abs": 0.0, "max_rel": 0.0, "min_cosine": 1.0}
    step |= {"gate": "max relative error <= 1e-05"}
    manifest = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "steps": [step]}
    path.with_name(f"{path.name}.manifest.json").write_text(json.dumps(manifest))
    return path


def reid_model(path: Path, batch: Batch = 16, seed: int = 0, features: int = 8) -> Path:
    """Float NCHW crops to an embedding, as a fused re-ID export: convolution, pooling, linear."""
    draw = np.random.default_rng(seed)
    weights = {
        "conv": draw.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "linear": draw.normal(size=(5, features)).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "conv"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Squeeze", ["pooled", "axes"], ["vector"]),
        helper.make_node("MatMul", ["vector", "linear"], ["embedding"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 4])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, features])
    return save(path, nodes, [images], [embedding], weights)


def face_model(path: Path, batch: Batch = "N", seed: int = 1) -> Path:
    """uint8 NHWC faces to a unit embedding: the preprocessing is in the graph."""
    draw = np.random.default_rng(seed)
    weights = {
        "scale": np.array(1 / 127.5, np.float32),
        "shape": np.array([0, -1], np.int64),
        "linear": draw.normal(size=(6 * 6 * 3, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["faces"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "linear"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
    ]
    faces = helper.make_tensor_value_info("faces", TensorProto.UINT8, [batch, 6, 6, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 4])
    return save(path, nodes, [faces], [embedding], weights)


def types_model(path: Path) -> Path:
    """Half, int64 and bool inputs; half, int64, bool and double outputs."""
    nodes = [
        helper.make_node("Add", ["half", "half"], ["doubled"]),
        helper.make_node("Neg", ["whole"], ["negated"]),
        helper.make_node("Not", ["flag"], ["flipped"]),
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.DOUBLE),
    ]
    kinds = {"half": TensorProto.FLOAT16, "whole": TensorProto.INT64, "flag": TensorProto.BOOL}
    results = {
        "doubled": TensorProto.FLOAT16,
        "negated": TensorProto.INT64,
        "flipped": TensorProto.BOOL,
        "wide": TensorProto.DOUBLE,
    }
    inputs = [helper.make_tensor_value_info(name, kind, ["N", 3]) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info(name, kind, ["N", 3]) for name, kind in results.items()]
    return save(path, nodes, inputs, outputs, {})


def lookup_model(path: Path) -> Path:
    """Rows of a table by index: an index beyond the table fails at run time."""
    table = {"table": np.arange(20, dtype=np.float32).reshape(10, 2)}
    index = helper.make_tensor_value_info("index", TensorProto.INT64, ["N", 1])
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, ["N", 1, 2])
    return save(path, [helper.make_node("Gather", ["table", "index"], ["row"])], [index], [row], table)


def score_model(path: Path) -> Path:
    """One value per row in and out: no axis beside the batch."""
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    weighted = helper.make_tensor_value_info("weighted", TensorProto.FLOAT, ["N"])
    weights = {"two": np.array(2, np.float32)}
    return save(path, [helper.make_node("Mul", ["score", "two"], ["weighted"])], [score], [weighted], weights)


def noisy_model(path: Path, features: int = 3) -> Path:
    """An embedding with fresh noise in every run: no server can reproduce it."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["channels"]),
        helper.make_node("MatMul", ["channels", "linear"], ["vector"]),
        helper.make_node("RandomNormalLike", ["vector"], ["noise"]),
        helper.make_node("Add", ["vector", "noise"], ["embedding"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [16, 3, 8, 4])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [16, features])
    return save(path, nodes, [images], [embedding], {"linear": np.eye(3, features, dtype=np.float32)})


MODELS = {"reid": reid_model, "face": face_model, "types": types_model, "lookup": lookup_model, "score": score_model}


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """`make_model(kind, path, **options)` writes a tiny ONNX file and returns its path."""

    def make(kind: str, path: Path, **options: object) -> Path:
        return (MODELS | {"noisy": noisy_model})[kind](path, **options)

    return make


@pytest.fixture(scope="session", name="exported")
def exported_fixture() -> Callable[[Path], Path]:
    return exported


@pytest.fixture(scope="session")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: build(folder / f"{kind}.onnx") for kind, build in MODELS.items()}


@pytest.fixture(scope="session")
def run_local() -> Callable[..., list[np.ndarray]]:
    """In-process ONNX Runtime, the oracle."""

    def run(path: Path, *arrays: np.ndarray) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, dict(zip([i.name for i in session.get_inputs()], arrays, strict=True)))

    return run


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, onnx_files: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "models"
    for kind, path in onnx_files.items():
        deploy(path, name=kind, repository=folder, device="cpu")
    deploy_packer("reid", name="packer", repository=folder, max_delay=20)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[TritonServer]:
    """Stopped without grace, which takes Triton two seconds; `server/test_server.py` stops one as users do."""
    with TritonServer(repository, stop_timeout=0.0) as running:
        yield running


@pytest.fixture(scope="session")
def make_torch() -> Callable[..., Path]:
    """`make_torch(path, seed=0, stated=True)` writes the module of `reid_model`'s kind as `.pt` or `.pt2`."""

    def make(path: Path, *, seed: int = 0, features: int = 4, stated: bool = True) -> Path:
        import torch

        from rtool.converters.exporting.torch_formats import trace_program, trace_script
        from rtool.converters.records.interface import INTERFACE_KEY, interface_text
        from rtool.converters.records.record import TensorSpec

        torch.manual_seed(seed)
        layers = [torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        module = torch.nn.Sequential(*layers, torch.nn.Linear(5, features)).eval()
        trace = trace_program if path.suffix == ".pt2" else trace_script
        traced = trace(module, [torch.rand(3, 3, 8, 4)], [True])
        inputs, outputs = ("batch", 3, 8, 4), ("batch", features)
        interface = interface_text(
            [TensorSpec("images", "float32", inputs)], [TensorSpec("embedding", "float32", outputs)]
        )
        path.write_bytes(traced.serialised({INTERFACE_KEY: interface} if stated else {}))
        return exported(path)

    return make
