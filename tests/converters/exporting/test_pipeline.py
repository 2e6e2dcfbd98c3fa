"""An export gives what the module gives, says how it was made, and leaves nothing behind when it fails."""

import hashlib
import io
import json
import os
import shutil
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from rtool.converters import (
    Preprocessing,
    export,
    load_bundle,
    onnx_to_torch,
    restore_batchnorm,
    save_bundle,
    torch_to_onnx,
)
from rtool.converters.records.record import require_record
from rtool.errors import GateError, InputError

SIZE = (32, 32)
PREPROCESSING = Preprocessing(*SIZE)


class Network(nn.Module):
    """Convolutions with BatchNorm, a shortcut, a pooling and a Linear layer: 3x32x32 to 16 numbers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 16)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(self.pool(torch.relu(self.bn3(self.conv3(x)))).flatten(1))


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A fused export of a small network with weights that no exporter would merge."""
    torch.manual_seed(0)
    module = Network()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        module(torch.randn(8, 3, *SIZE))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(2, 3, *SIZE),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_axes={"images": {0: "batch"}, "embedding": {0: "batch"}},
        )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(file.getvalue())
    return path


@pytest.fixture(scope="module")
def trained(fused, tmp_path_factory):
    """A bundle with restored BatchNorm whose weights have moved."""
    module = onnx_to_torch(fused)
    require_record(module).preprocessing = PREPROCESSING
    restore_batchnorm(module, [torch.randn(8, 3, *SIZE)])
    optimiser = torch.optim.SGD(module.train().parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        module(torch.randn(8, 3, *SIZE)).square().mean().backward()
        optimiser.step()
    return save_bundle(module.eval(), tmp_path_factory.mktemp("bundle") / "trained.rtool", source=fused)


def run(path, array):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: array})[0]


def expected(bundle, images):
    with torch.no_grad():
        return load_bundle(bundle).module(torch.from_numpy(images)).numpy()


def images(count=4):
    return np.random.default_rng(1).standard_normal((count, 3, *SIZE)).astype(np.float32)


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def test_a_trained_bundle_is_written_back_into_its_source_graph(trained, fused, tmp_path):
    result = export(trained, tmp_path / "out.onnx")
    assert error(run(result.path, images()), expected(trained, images())) <= 1e-5
    assert [step.name for step in result.steps] == ["write-back"]
    assert all(step.max_rel <= 1e-5 for step in result.steps)
    source, written = onnx.load(fused), onnx.load(result.path)
    assert [node.SerializeToString() for node in written.graph.node] == [
        node.SerializeToString() for node in source.graph.node
    ]


def test_fp16_batch_and_simplification_are_measured_steps(trained, tmp_path):
    result = export(trained, tmp_path / "out.onnx", fp16=True, batch=4)
    assert [step.name for step in result.steps] == ["write-back", "batch", "simplify", "fp16"]
    assert result.steps[-1].min_cosine >= 0.9999
    got, wanted = run(result.path, images(4)), expected(trained, images(4))
    cosines = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() >= 0.9999
    assert onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_embedded_preprocessing_takes_pixels(trained, tmp_path):
    result = export(trained, tmp_path / "out.onnx", embed_preprocessing=True, fp16=True)
    pixels = np.random.default_rng(2).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    wanted = expected(trained, PREPROCESSING.normalise(pixels))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    got = run(result.path, pixels)
    assert (got * wanted).sum(1).min() >= 0.9999
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-3)


@pytest.mark.slow
def test_a_zoo_model_is_folded_and_re_exported(tmp_path):
    faces = np.random.default_rng(1).standard_normal((5, 3, 112, 112)).astype(np.float32)
    result = export("mobilefacenet", tmp_path / "out.onnx", inputs=faces[:4], preprocessing=Preprocessing(112, 112))
    assert [step.name for step in result.steps] == ["fold", "re-export", "simplify"]
    model = onnx.load(result.path)
    assert (model.opset_import[0].version, model.ir_version) == (20, 10)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert run(result.path, faces).shape == (5, 512)


def small():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 5)).eval()


@pytest.mark.parametrize(("format", "suffix"), [("pt2", "pt2"), ("torchscript", "pt")])
def test_torch_formats_load_to_the_same_function_at_any_batch(tmp_path, format, suffix):
    module = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = export(module, tmp_path / f"out.{suffix}", format=format, preprocessing=PREPROCESSING).path
        loaded = torch.export.load(path).module() if format == "pt2" else torch.jit.load(path)
    for count in (1, 2, 5):
        with torch.no_grad():
            got, wanted = (network(torch.from_numpy(images(count))).numpy() for network in (loaded, module))
        assert error(got, wanted) <= 1e-5


def test_manifest_and_metadata_tell_where_the_file_comes_from(trained, fused, tmp_path):
    result = export(trained, tmp_path / "out.onnx", fp16=True)
    manifest = json.loads((tmp_path / "out.onnx.manifest.json").read_text())
    digest = hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert manifest["sha256"] == result.sha256 == digest
    assert manifest["source_sha256"] == hashlib.sha256(fused.read_bytes()).hexdigest()
    assert [step["name"] for step in manifest["steps"]] == ["write-back", "fp16"]
    assert manifest["versions"]["torch"] == str(torch.__version__)
    metadata = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert metadata["rtool.source"] == "model.onnx"
    assert json.loads(metadata["rtool.preprocessing"])["height"] == SIZE[0]


def test_a_missed_gate_writes_nothing(trained, tmp_path):
    with pytest.raises(GateError, match=r"'write-back'.*<= 1e-12"):
        export(trained, tmp_path / "out.onnx", tolerance=1e-12)
    assert not list(tmp_path.iterdir())


def test_a_module_in_memory_is_exported_with_its_source(fused, tmp_path):
    module = onnx_to_torch(fused).train()
    result = export(module, tmp_path / "out.onnx", source=fused)
    assert error(run(result.path, images()), run(fused, images())) == 0
    assert module.training
    with pytest.raises(InputError, match="source"):
        export(module, tmp_path / "other.onnx")


def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path):
    module = small()
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"weight '0\.weight' .*NaN"):
        export(module, tmp_path / "out.onnx", preprocessing=PREPROCESSING)


def test_int8_bf16_target_and_stripping_are_options(tmp_path, fused):
    pixels = np.random.default_rng(0).integers(0, 256, (16, *SIZE, 3), dtype=np.uint8)
    options = {"inputs": pixels, "preprocessing": PREPROCESSING, "strip_metadata": True, "min_cosine": 0.5}
    result = export(fused, tmp_path / "out.onnx", int8=True, target="triton:24.10", **options)
    assert result.steps[-1].name == "int8"
    assert run(result.path, images()).shape == (4, 16)
    assert export(fused, tmp_path / "bf16.onnx", bf16=True, **options).opset == 22
    with pytest.raises(InputError, match="exclude each other"):
        export(fused, tmp_path / "two.onnx", int8=True, fp16=True, **options)
    with pytest.raises(InputError, match="real images"):
        export(fused, tmp_path / "none.onnx", int8=True)


class PreActivated(nn.Module):
    """One BatchNorm before zero padding, as in iResNet, and one before an unpadded convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)
        self.padded, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.prelu, self.point = nn.PReLU(8), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.padded(self.bn1(x))
        return self.fc(self.point(self.bn2(self.prelu(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def preactivated(tmp_path_factory):
    torch.manual_seed(0)
    module = PreActivated().eval()
    for norm in (module.bn1, module.bn2):
        for tensor in (norm.running_mean, norm.bias.data):
            tensor.normal_()
        for tensor in (norm.running_var, norm.weight.data):
            tensor.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("preactivated") / "face.v2.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            torch.randn(2, 3, *SIZE),
            path,
            dynamo=False,
            input_names=["pixels"],
            output_names=["features"],
            dynamic_axes={"pixels": {0: "n"}, "features": {0: "n"}},
        )
    return path


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_write_back_names_every_batchnorm_that_stays_in_the_source_graph(preactivated, tmp_path):
    result = export(preactivated, tmp_path / "out.onnx")
    reasons = {entry["batchnorm"]: entry["reason"] for entry in result.kept_batchnorms}
    assert operators(result.path).count("BatchNormalization") == len(reasons) == 2
    assert "pads with zeros" in reasons["bn1"]
    assert "--fold-padded" in reasons["bn1"]
    assert "write-back leaves" in reasons["bn2"]
    slim = export(preactivated, tmp_path / "slim.onnx", simplifier="onnxslim")
    assert {entry["batchnorm"] for entry in slim.kept_batchnorms} <= {"bn1", "bn2"}


def test_fold_padded_leaves_no_batchnorm_and_the_sources_interface(preactivated, tmp_path):
    result = export(preactivated, tmp_path / "out.onnx", fold_padded=True)
    assert "BatchNormalization" not in operators(result.path)
    assert operators(result.path).count("Sub") == 1
    assert result.kept_batchnorms == ()
    assert [step.name for step in result.steps][:2] == ["fold", "re-export"]
    graph = onnx.load(result.path).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["pixels", "features"]
    for count in (1, 2, 3, 5):
        assert error(run(result.path, images(count)), run(preactivated, images(count))) <= 1e-5
    stated = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert json.loads(stated["rtool.folded_batchnorms"]) == {}  # neither stood behind its layer


def test_the_default_name_is_the_models_or_the_runs(preactivated, fused, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(preactivated).path.name == "face.v2.onnx"
    assert export(trained, format="pt2").path.name == "trained.pt2"
    checkpoint = tmp_path / "runs" / "people.v1" / "20260101-120000" / "checkpoints" / "best.rtool"
    shutil.copytree(trained, checkpoint)
    for reference in (checkpoint.parent.parent, checkpoint):
        result = export(reference, overwrite=True)
        assert (result.path.name, result.model) == ("people.v1.onnx", "people.v1")
    assert export(checkpoint.parent.parent, fp16=True).path.name == "people.v1_fp16.onnx"


def test_the_chain_goes_on_through_the_export(trained, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    result = export(trained, tmp_path / "out.onnx", inputs=pixels)
    assert [link.step for link in result.chain] == ["source", "exported"]
    rows = sorted(hashlib.sha256(b"|u1(32, 32, 3)" + image.tobytes()).digest() for image in pixels)
    digest = hashlib.sha256(b"".join(rows)).hexdigest()
    assert result.measured_on == {"images": 5, "sha256": digest, "random": False}
    stated = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    manifest = json.loads(result.manifest.read_text())
    assert json.loads(stated["rtool.chain"]) == manifest["chain"]
    assert manifest["chain"][-1]["facts"]["parity"][0]["step"] == "write-back"


def refused(fused, trained, folder):
    (folder / "there.onnx").write_bytes(b"x")
    (folder / "noted.onnx.manifest.json").write_bytes(b"{}")
    (folder / "taken.onnx.manifest.json").mkdir()
    onnx.save(onnx.load(fused), folder / "split.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return {
        "source itself": lambda: export(fused, fused),
        "inside the source": lambda: export(trained, trained / "out.onnx"),
        "already exists": lambda: export(fused, folder / "there.onnx"),
        "does not exist; make it": lambda: export(fused, folder / "none" / "out.onnx"),
        "noted.onnx.manifest.json: already exists": lambda: export(fused, folder / "noted.onnx"),
        "expected a file to write, got a folder": lambda: export(fused, folder / "taken.onnx", overwrite=True),
        "holds weights of the source": lambda: export(folder / "split.onnx", folder / "w.bin", overwrite=True),
        "positive number": lambda: export(fused, folder / "out.onnx", batch=0),
        "nearest|did you mean": lambda: export("osnet_x0_26", folder / "out.onnx"),
    }


@pytest.mark.parametrize("number", range(9))
def test_bad_requests_are_refused_and_leave_everything_as_it_was(fused, trained, tmp_path, number):
    message, call = list(refused(fused, trained, tmp_path).items())[number]

    def files():
        found = [fused, *trained.iterdir(), *tmp_path.iterdir()]
        return {path: path.read_bytes() for path in found if path.is_file()}

    before = files()
    with pytest.raises(InputError, match=message):
        call()
    assert files() == before


def test_a_full_disk_leaves_nothing_half_written(fused, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        export(fused, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_cannot_be_written_takes_the_model_with_it(fused, tmp_path, monkeypatch):
    replace = os.replace

    def refuse(temporary, path):
        if str(path).endswith(".json"):
            raise OSError(30, "Read-only file system")
        replace(temporary, path)

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be written .*nothing was left behind"):
        export(fused, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_reexport_keeps_mode_names_and_batch():
    module = small().train()
    model = torch_to_onnx(module, torch.randn(1, 3, *SIZE), input_names=["x"], output_names=["y"])
    assert module.training
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("x", "y")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 2, 3, 5):
        with torch.no_grad():
            wanted = module.eval()(torch.from_numpy(images(count))).numpy()
        assert error(session.run(None, {"x": images(count)})[0], wanted) <= 1e-5
