"""`--weights` everywhere: one function loads, and what it changed is measured against the model it was loaded into."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from rtool.benchmarks.compare import parity
from rtool.converters import export, inspect, load_bundle, onnx2torch, onnx_to_torch
from rtool.converters.bundles.reference import load_model, open_runner
from rtool.converters.records.record import record_of
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import InputError
from rtool.finetune.embedding.embedders import open_embedder


@pytest.fixture
def trained(model_file, tmp_path):
    """A state_dict of other weights under initializer names, and the outputs of ONNX Runtime with them."""
    proto = onnx.load(model_file)
    record = record_of(onnx_to_torch(model_file))
    floats = {source.value for source in record.parameters.values()}
    generator, state = np.random.default_rng(3), {}
    for tensor in proto.graph.initializer:
        if tensor.name in floats:
            array = numpy_helper.to_array(tensor)
            array = array + np.abs(0.1 * generator.standard_normal(array.shape)).astype(array.dtype)
            state[tensor.name.replace("::", "__")] = torch.from_numpy(array)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    torch.save({key: state[key] for key in sorted(state, key=lambda key: key[::-1])}, tmp_path / "w.pth")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return tmp_path / "w.pth", lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def close(got, want):
    return np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_every_way_to_open_a_model_gives_the_outputs_of_the_loaded_weights(model_file, trained, images, tmp_path):
    weights, outputs = trained
    x, want = images(3), outputs(images(3))
    source = ort.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    moved = np.abs(want - source.run(None, {source.get_inputs()[0].name: x})[0]).max()
    assert moved > 1e-2
    converted = onnx2torch(model_file, tmp_path / "m.rtool", weights=weights)
    with torch.no_grad():
        assert close(load_bundle(converted.output).module(torch.from_numpy(x)).numpy(), want)
    plain = onnx2torch(model_file, tmp_path / "plain.rtool").output
    for reference in (model_file, plain):
        assert close(open_runner(reference, weights=weights).run(x)[0], want)
        result = export(reference, tmp_path / "out.onnx", weights=weights, overwrite=True)
        assert close(open_runner(result.path).run(x)[0], want)
        assert [link.step for link in result.chain][-2:] == ["weights", "exported"]
        assert str(tmp_path) not in result.manifest.read_text()
        assert not inspect(reference, weights).weights.missing
        torch.save({"other": torch.ones(1)}, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"does not fit"):
            export(reference, tmp_path / "no.onnx", weights=tmp_path / "other.pth")
    assert parity(tmp_path / "out.onnx", model_file, weights=weights).passed
    assert not parity(tmp_path / "out.onnx", model_file).passed


def test_the_difference_from_the_source_is_measured_after_loading(model_file, trained, tmp_path):
    weights, _ = trained
    result = onnx2torch(model_file, tmp_path / "m.rtool", weights=weights)
    assert max(entry.parity.max_rel for entry in result.parity) > 1e-2
    assert result.weights.difference == max((entry.parity for entry in result.parity), key=lambda p: p.max_rel)
    loaded = load_model(model_file, weights).weights
    assert loaded.difference.max_rel > 1e-2
    assert "outputs differ by" in str(loaded)
    torch.save(onnx_to_torch(model_file).state_dict(), tmp_path / "same.pth")
    same = onnx2torch(model_file, tmp_path / "n.rtool", weights=tmp_path / "same.pth")
    assert same.weights.changed == 0
    assert max(entry.parity.max_rel for entry in same.parity) <= 1e-5
    assert load_model(model_file, tmp_path / "same.pth").weights.difference.identical


def test_a_zoo_name_takes_weights_with_a_classifier_beside_them(tmp_path):
    torch.manual_seed(4)
    original = build_architecture("osnet_x0_25").eval()
    state = {**original.state_dict(), "classifier.weight": torch.ones(3, 512)}
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "rank1": np.float32(1)}, tmp_path / "w.pth.tar"
    )
    model = load_model("osnet_x0_25", tmp_path / "w.pth.tar")
    x = torch.randn(1, 3, 256, 128)
    with torch.no_grad():
        assert torch.equal(model.module(x), original(x))
    assert model.weights.unused == ("module.classifier.weight",)
    assert model.weights.difference is None
    embedder = open_embedder("osnet_x0_25", weights=tmp_path / "w.pth.tar")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 256, 128, 3), dtype=np.uint8)
    with torch.no_grad():
        want = original(torch.from_numpy(embedder.preprocessing.normalise(pixels))).numpy()
    np.testing.assert_allclose(embedder.embed(pixels), want, rtol=1e-5, atol=1e-6)
    assert "1 of the file not used: module.classifier.weight [3, 512]" in embedder.notes[0]


def test_models_that_are_programs_or_served_take_no_weights(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "m.pt")
    with pytest.raises(InputError, match="its weights are part of its program"):
        load_model(tmp_path / "m.pt", tmp_path / "w.pth")
    with pytest.raises(InputError, match="a served model has its weights"):
        open_runner("triton://127.0.0.1:1/m", weights=tmp_path / "w.pth")
    with pytest.raises(InputError, match="load it into the module before export"):
        export(torch.nn.Linear(2, 2), tmp_path / "m.onnx", weights=tmp_path / "w.pth")
