"""Bundles of the version before load, in the layout written out here; a model.py edited by hand is never executed."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

import rtool
from rtool.cli.main import run
from rtool.converters import bundle_to_onnx, load_bundle, load_model, open_runner, save_bundle
from rtool.converters.exporting.reduced_precision import read_float32_nodes
from rtool.converters.records.record import RestoredBatchNorm
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.network.networks import load_network

SHA256 = "ca95dc21e1a8b525fcb3c49ce02422f39349c9334adb09c370f0ee76df2b396d"
INFO = {
    "format": 1,
    "architecture": None,
    "source": {"name": "tiny.onnx", "sha256": SHA256, "opset": 17, "producer": ""},
    "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 16, 8]}],
    "outputs": [{"name": "embedding", "dtype": "float32", "shape": ["batch", 4]}],
    "mapping": {
        "conv.weight": {"value": "onnx::Conv_7", "transform": "identity"},
        "conv.bias": {"value": "onnx::Conv_8", "transform": "identity"},
    },
    "nodes": {"conv": ["/conv/Conv"]},
    "restored": [{"module": "bn", "after": "conv", "channels": 4, "eps": 1e-05}],
    "frozen": ["conv.weight"],
    "tied": {},
    "preprocessing": {
        "height": 16,
        "width": 8,
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "channel_order": "rgb",
        "interpolation": "bilinear",
        "layout": "nchw",
    },
    "provenance": {
        "made_by": "onnx2torch",
        "chain": [
            {
                "step": "source",
                "detail": "tiny.onnx, opset 17, by an unnamed exporter",
                "facts": {"file": "tiny.onnx", "sha256": SHA256, "opset": 17, "producer": ""},
            },
            {
                "step": "converted",
                "detail": "by rtool 0.1.0, max relative error 1.1e-07 against ONNX Runtime",
                "facts": {"parity_max_rel": {"1": 6.6e-08}, "versions": {"rtool": "0.1.0", "torch": "2.13.0+cpu"}},
            },
            {
                "step": "BatchNorm restored",
                "detail": "1 BatchNorms, calibrated on 48 images",
                "facts": {"batchnorms": 1, "images": 48, "images_sha256": "c20", "uncertainty": 0.02},
            },
        ],
    },
}
"""`bundle.json` as `rtool onnx2torch --restore-bn --freeze conv.weight` of version 0.1.0 wrote it, hashes shortened."""

EDITED = "from pathlib import Path\n\nPath(__file__).with_name('executed').touch()\nraise SystemExit(3)\n"
"""A model.py that shows when it was executed."""


def weights() -> dict[str, torch.Tensor]:
    """A convolution, and a BatchNorm that undoes its own statistics."""
    normal = np.random.default_rng(0).standard_normal
    mean, variance = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([1.0, 4.0, 0.25, 2.0])
    return {
        "conv.weight": torch.from_numpy(normal((4, 3, 3, 3)).astype(np.float32)),
        "conv.bias": torch.from_numpy(normal(4).astype(np.float32)),
        "bn.weight": torch.sqrt(variance + 1e-5),
        "bn.bias": mean.clone(),
        "bn.running_mean": mean,
        "bn.running_var": variance,
        "bn.num_batches_tracked": torch.tensor(0),
    }


def stripped(name: str, dims: list[int], parameter: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=f"weights.safetensors#{parameter}")
    return tensor


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The four files of a bundle of version 0.1.0."""
    folder = tmp_path / "tiny.rtool"
    folder.mkdir()
    nodes = [
        helper.make_node("Conv", ["images", "onnx::Conv_7", "onnx::Conv_8"], ["a"], name="/conv/Conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("ReduceMean", ["b"], ["embedding"], name="mean", axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 4])],
        [stripped("onnx::Conv_7", [4, 3, 3, 3], "conv.weight"), stripped("onnx::Conv_8", [4], "conv.bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    save_file(weights(), folder / "weights.safetensors", metadata={"format": "pt"})
    (folder / "bundle.json").write_text(json.dumps(INFO, indent=2) + "\n")
    (folder / "model.py").write_text(EDITED)
    return folder


def by_hand(images: np.ndarray) -> np.ndarray:
    """Convolution, ReLU and mean; the BatchNorm is the identity."""
    own = weights()
    features = torch.nn.functional.conv2d(torch.from_numpy(images), own["conv.weight"], own["conv.bias"], padding=1)
    return torch.relu(features).mean((2, 3)).numpy()


def test_a_bundle_of_the_previous_version_loads_and_computes_the_same(bundle: Path, tmp_path: Path):
    loaded = load_bundle(bundle)
    assert loaded.record is not None
    assert (loaded.record.source, loaded.record.sha256) == ("tiny.onnx", SHA256)
    assert loaded.record.restored == (RestoredBatchNorm("bn", "conv", 4, 1e-05),)
    assert loaded.record.frozen == ("conv.weight",)
    assert not loaded.module.get_parameter("conv.weight").requires_grad
    assert [link.step for link in loaded.record.chain] == ["source", "converted", "BatchNorm restored"]
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.mean == (123.675, 116.28, 103.53)
    images = np.random.default_rng(1).standard_normal((3, 3, 16, 8)).astype(np.float32)
    np.testing.assert_allclose(open_runner(bundle).run(images)[0], by_hand(images), rtol=0, atol=1e-6)
    written = rtool.export(bundle, tmp_path / "out.onnx")
    np.testing.assert_allclose(open_runner(written.path).run(images)[0], by_hand(images), rtol=0, atol=1e-6)
    assert written.source_sha256 == SHA256
    again = save_bundle(loaded.module, tmp_path / "again.rtool", source=bundle, preprocessing=loaded.preprocessing)
    info = json.loads((again / "bundle.json").read_text())
    assert info.pop("buffers") == ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var"]  # new since
    assert {key: value for key, value in info.items() if key != "provenance"} == {
        key: value for key, value in INFO.items() if key != "provenance"
    }


def test_a_manifest_of_the_previous_version_names_its_float32_nodes(tmp_path: Path):
    manifest = tmp_path / "m.onnx.manifest.json"
    manifest.write_text('{"kept_in_float32": [{"node": "a", "operator": "Conv", "reason": ""}]}')
    assert read_float32_nodes(manifest) == ("a",)


# -- model.py --------------------------------------------------------------------------------------------------------


class Audit:
    """What the interpreter opened, compiled or executed at one path while `path` was set; a hook stays for ever."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.events: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.path is None or event not in ("open", "compile", "exec"):
            return
        named = arguments[1] if event == "compile" else arguments[0]
        named = getattr(named, "co_filename", named) if event == "exec" else named
        text = os.fsdecode(named) if isinstance(named, str | bytes) else ""
        if text == self.path:
            self.events.append(event)


AUDIT = Audit()


@pytest.fixture
def audit(bundle: Path) -> Iterator[Audit]:
    AUDIT.path, AUDIT.events = str(bundle / "model.py"), []
    yield AUDIT
    AUDIT.path = None


def test_the_audit_sees_a_file_that_is_executed(bundle: Path, audit: Audit):
    path = bundle / "model.py"
    with pytest.raises(SystemExit):
        exec(compile(path.read_text(), str(path), "exec"), {"__file__": str(path)})
    assert audit.events == ["open", "compile", "exec"]
    assert (bundle / "executed").exists()


USES: dict[str, Callable[[Path, Path], object]] = {
    "load_bundle": lambda bundle, folder: load_bundle(bundle).module(torch.zeros(2, 3, 16, 8)),
    "load_model": lambda bundle, folder: load_model(bundle),
    "open_runner": lambda bundle, folder: open_runner(bundle).run(np.zeros((2, 3, 16, 8), np.float32)),
    "bundle_to_onnx": lambda bundle, folder: bundle_to_onnx(bundle),
    "save_bundle": lambda bundle, folder: save_bundle(load_bundle(bundle).module, folder / "n.rtool", source=bundle),
    "inspect": lambda bundle, folder: rtool.inspect(bundle),
    "rtool inspect": lambda bundle, folder: run(["inspect", str(bundle), "-q"]),
    "export": lambda bundle, folder: rtool.export(bundle, folder / "out.onnx"),
    "export --format pt2": lambda bundle, folder: rtool.export(bundle, folder / "out.pt2", format="pt2"),
    "evaluate": lambda bundle, folder: rtool.evaluate(
        bundle, "synthetic-people:identities=4,images=8,seed=2,size=16x8"
    ),
    "finetune's model": lambda bundle, folder: load_network(ModelConfig(reference=str(bundle))),
}


@pytest.mark.parametrize("use", USES)
def test_a_model_py_edited_by_hand_is_never_opened_or_executed(use: str, bundle: Path, audit: Audit, tmp_path: Path):
    USES[use](bundle, tmp_path)
    assert audit.events == []
    assert not (bundle / "executed").exists()
    assert (bundle / "model.py").read_text() == EDITED


def test_a_bundle_needs_no_model_py(bundle: Path):
    (bundle / "model.py").unlink()
    assert isinstance(load_bundle(bundle).module, torch.nn.Module)
    assert isinstance(bundle_to_onnx(bundle), onnx.ModelProto)
