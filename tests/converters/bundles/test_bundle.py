"""A bundle holds the model in plain files: it loads without running code, and gives the source back bit for bit."""

import importlib.util
import json

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from rtool.converters import bundle_to_onnx, load_bundle, onnx_to_torch, save_bundle
from rtool.converters.records.record import require_record
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import InputError


def arrays(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.fixture(params=[("cnn", "ts", 11), ("cnn", "dy", 20), ("vit", "ts", 17)])
def source(request, exported, tmp_path):
    path = tmp_path / "source.onnx"
    path.write_bytes(exported(*request.param)[1].SerializeToString())
    return path


def test_an_untrained_bundle_gives_the_source_back_bit_for_bit(source, tmp_path, images):
    module = onnx_to_torch(source)
    bundle = load_bundle(save_bundle(module, tmp_path / "m.rtool", source=source))
    x = torch.from_numpy(images(2))
    with torch.no_grad():
        assert torch.equal(bundle.module(x), module(x))
    original, back = onnx.load(source), bundle_to_onnx(tmp_path / "m.rtool")
    expected, got = arrays(original), arrays(back)
    assert expected.keys() == got.keys()
    assert all(expected[name].tobytes() == got[name].tobytes() for name in expected)
    assert list(original.graph.node) == list(back.graph.node)


def test_model_py_alone_reproduces_the_numbers(source, tmp_path, images):
    module = onnx_to_torch(source)
    path = save_bundle(module, tmp_path / "m.rtool", source=source)
    text = (path / "model.py").read_text()
    imports = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= {"torch", "typing"}
    spec = importlib.util.spec_from_file_location("generated_model", path / "model.py")
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    model = generated.Model().eval()
    model.load_state_dict(load_file(path / "weights.safetensors"))
    x = torch.from_numpy(images(3))
    with torch.no_grad():
        assert torch.equal(model(x), module(x))


def test_trained_weights_and_the_record_survive(source, tmp_path):
    module = onnx_to_torch(source)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    bundle = load_bundle(save_bundle(module, tmp_path / "m.rtool", source=source, provenance={"epoch": 3}))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), bundle.module.parameters(), strict=True))
    assert bundle.record.sha256 == require_record(module).sha256
    assert bundle.record.parameters == require_record(module).parameters
    assert bundle.metadata["provenance"] == {"epoch": 3}


def test_what_was_frozen_at_conversion_stays_so_in_the_bundle_and_in_bundles_made_of_it(source, tmp_path):
    module = onnx_to_torch(source)
    frozen = next(name for name, _ in module.named_parameters())
    module = onnx_to_torch(source, freeze=[frozen])
    path = save_bundle(module, tmp_path / "m.rtool", source=source)
    again = save_bundle(load_bundle(path).module.requires_grad_(True), tmp_path / "n.rtool", source=path)
    for bundle in (load_bundle(path), load_bundle(again)):
        assert [name for name, p in bundle.module.named_parameters() if not p.requires_grad] == [frozen]


def test_the_stripped_graph_can_not_be_mistaken_for_a_model(source, tmp_path):
    path = save_bundle(onnx_to_torch(source), tmp_path / "m.rtool", source=source)
    assert (path / "graph.onnx").stat().st_size < source.stat().st_size
    with pytest.raises(InputError, match=r"is in weights\.safetensors of a bundle; give the bundle's folder"):
        onnx_to_torch(path / "graph.onnx")


def test_a_checkpoint_of_a_bundle_needs_no_source_file(source, tmp_path, images):
    first = save_bundle(onnx_to_torch(source), tmp_path / "a.rtool", source=source)
    source.unlink()
    module = load_bundle(first).module
    second = load_bundle(save_bundle(module, tmp_path / "b.rtool", source=first))
    x = torch.from_numpy(images(1))
    with torch.no_grad():
        assert torch.equal(second.module(x), module(x))


def test_models_from_the_zoo_are_bundles_without_a_graph(tmp_path):
    module = build_architecture("mobilefacenet", input_size=(32, 32)).eval()
    options = {"input_size": [32, 32]}
    path = save_bundle(module, tmp_path / "m.rtool", architecture={"name": "mobilefacenet", "options": options})
    bundle = load_bundle(path)
    assert not (path / "graph.onnx").exists()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(bundle.module(x), module(x))
    with pytest.raises(InputError, match="no source graph"):
        bundle_to_onnx(path)


def test_what_is_already_there_is_not_touched(source, tmp_path):
    module = onnx_to_torch(source)
    path = save_bundle(module, tmp_path / "m.rtool", source=source)
    with pytest.raises(InputError, match="already exists"):
        save_bundle(module, path, source=source)
    other = tmp_path / "other"
    other.mkdir()
    (other / "keep.txt").write_text("mine")
    with pytest.raises(InputError, match="not a bundle"):
        save_bundle(module, other, source=source, overwrite=True)
    save_bundle(module, path, source=source, overwrite=True, provenance={"n": 2})
    assert load_bundle(path).metadata["provenance"] == {"n": 2}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.rtool", "other", "source.onnx"]


def test_a_failed_write_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("rtool.converters.bundles.bundle.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bundle(onnx_to_torch(source), tmp_path / "m.rtool", source=source)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.onnx"]


@pytest.mark.parametrize(
    "change",
    [
        {"mapping": 3},
        {"mapping": {"stem.0.weight": {"velue": "w"}}},
        {"source": None},
        {"restored": [{"module": "x"}]},
        {"frozen": ["no.such.weight"]},
        {"preprocessing": {"height": "tall"}},
        {"tied": [1]},
        {"architecture": "osnet"},
        {"architecture": {"name": "osnet_x0_25", "options": [1]}},
    ],
    ids=str,
)
def test_a_damaged_description_is_refused_with_its_file(source, tmp_path, change):
    path = save_bundle(onnx_to_torch(source), tmp_path / "m.rtool", source=source)
    info = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(InputError, match=r"bundle\.json|preprocessing"):
        load_bundle(path)


def test_a_damaged_type_in_the_stripped_graph_is_refused(source, tmp_path):
    path = save_bundle(onnx_to_torch(source), tmp_path / "m.rtool", source=source)
    proto = onnx.load(path / "graph.onnx", load_external_data=False)
    next(t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL).data_type = 12450
    (path / "graph.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="unknown data type 12450"):
        load_bundle(path)


def test_damaged_bundles_are_refused_with_the_file_that_is_wrong(source, tmp_path):
    path = save_bundle(onnx_to_torch(source), tmp_path / "m.rtool", source=source)
    tensors = load_file(path / "weights.safetensors")
    save_file(dict(list(tensors.items())[1:]), path / "weights.safetensors")
    with pytest.raises(InputError, match=r"make the bundle again|does not fit"):
        load_bundle(path)
    (path / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read"):
        load_bundle(path)
    info = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps({**info, "format": 99}))
    with pytest.raises(InputError, match="expected bundle format 1, got 99"):
        load_bundle(path)
    (path / "bundle.json").unlink()
    with pytest.raises(InputError, match="expected a bundle"):
        load_bundle(path)
