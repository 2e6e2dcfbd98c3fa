"""What may be published: outputs of use, and a file whose export was measured, or --force, which is recorded."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import rtool
from rtool.errors import GateError, InputError
from rtool.serving import deploy, validate_repository
from rtool.serving.publishing.proof import lacking_proof
from rtool.serving.repository.signatures.reading import read_signature


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def with_weights(source: Path, path: Path, change) -> Path:
    """A copy whose last linear layer is changed."""
    model = onnx.load(source)
    (linear,) = (entry for entry in model.graph.initializer if entry.name == "linear")
    linear.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(linear).copy()), "linear"))
    onnx.save(model, path)
    return path


def one_nan(weights: np.ndarray) -> np.ndarray:
    weights[0, 1] = np.nan
    return weights


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_nan, r"output embedding: 16 NaN of 128 values, at \[0, 1\], \[1, 1\], \[2, 1\], \.\.\."),
        (lambda weights: weights * np.float32(np.inf), "infinite|NaN"),
        (np.zeros_like, "output embedding: the same to the last bit for 8 different inputs"),
    ],
)
def test_outputs_of_no_use_are_refused_even_with_force(root, onnx_files, tmp_path, exported, change, said, force):
    broken = exported(with_weights(onnx_files["reid"], tmp_path / "broken.onnx", change))
    with pytest.raises(GateError, match=said):
        deploy(broken, name="m", repository=root, force=force)
    assert not root.exists()


def test_a_constant_model_is_found_at_every_batch_and_with_open_sizes(root, make_model, tmp_path, exported):
    for batch in (1, 16, "N"):
        source = make_model("reid", tmp_path / f"sound{batch}.onnx", batch=batch)
        lost = exported(with_weights(source, tmp_path / f"lost{batch}.onnx", np.zeros_like))
        with pytest.raises(GateError, match="the same to the last bit"):
            deploy(lost, name="m", repository=root)
    model = onnx.load(lost)
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, tmp_path / "open.onnx")
    with pytest.raises(GateError, match="the same to the last bit"):
        deploy(tmp_path / "open.onnx", name="m", repository=root)


def test_warm_up_data_that_are_not_finite_are_refused(root, onnx_files, tmp_path):
    crops = np.zeros((16, 3, 8, 4), np.float32)
    crops[2, 1, 0, 3] = np.nan
    np.save(tmp_path / "crops.npy", crops)
    with pytest.raises(InputError, match=r"warm-up: input 'images': 1 NaN of 1536 values, at \[2, 1, 0, 3\]"):
        deploy(onnx_files["reid"], name="m", repository=root, warmup=tmp_path / "crops.npy")
    assert not root.exists()


def test_an_export_needs_no_force_and_its_edited_file_does(root, tmp_path, make_model):
    source = make_model("reid", tmp_path / "source.onnx")
    result = rtool.export(source, tmp_path / "out.onnx")
    published = deploy(result.path, name="m", repository=root, device="cpu")
    assert not any("forced" in note for note in published.notes)
    with_weights(result.path, result.path, lambda weights: weights * 2)
    with pytest.raises(InputError, match=r"it is not the file that out\.onnx\.manifest\.json names.*--force"):
        deploy(result.path, name="m", repository=root)
    forced = deploy(result.path, name="m", repository=root, force=True)
    manifest = json.loads((forced.path / "manifest.json").read_text())
    assert "is not the file" in manifest["forced"][0]
    assert any("forced: it is not the file" in note for note in forced.notes)
    assert validate_repository(root) == ()


def test_a_file_without_a_manifest_needs_force(root, make_model, tmp_path):
    path = make_model("reid", tmp_path / "m.onnx")
    Path(f"{path}.manifest.json").unlink()
    with pytest.raises(InputError, match=r"no manifest of an export .*rtool export .*--force"):
        deploy(path, name="m", repository=root)
    assert not root.exists()
    assert deploy(path, name="m", repository=root, device="cpu", force=True).version == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_cosine": -1.0}, None),
        ({"gate": "min cosine >= 0.99", "min_cosine": 0.5}, "min cosine 0.5, must be >= 0.99"),
        ({"max_rel": 0.1}, "max relative error 0.1, must be <= 1e-05"),
        ({"max_rel": 0.1, "gate": "max relative error <= 1e-05 in float64"}, None),
        ({"max_rel": float("nan")}, "cannot be read|no finite numbers"),
        ({"gate": ""}, "none of its steps had a gate"),
        ({"gate": "looks fine"}, "'looks fine' is no gate that rtool export measures"),
        ({"max_abs": True}, "no finite numbers"),
        ({"gate": "max relative error <= 1e-05, min cosine >= 0.99", "min_cosine": 0.5}, "min cosine 0.5, must be"),
    ],
)
def test_the_numbers_of_a_manifest_must_meet_its_gates(make_model, tmp_path, change, said):
    path = make_model("reid", tmp_path / "m.onnx")
    place = Path(f"{path}.manifest.json")
    manifest = json.loads(place.read_text())
    manifest["steps"][0] |= change
    place.write_text(json.dumps(manifest))
    found = lacking_proof(read_signature(path))
    if said is None:
        assert found is None
    else:
        assert any(part in found for part in said.split("|"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"sha256": 3}', "null"])
def test_a_damaged_manifest_is_no_proof(make_model, tmp_path, text):
    path = make_model("reid", tmp_path / "m.onnx")
    Path(f"{path}.manifest.json").write_text(text)
    assert lacking_proof(read_signature(path))


def test_the_example_has_the_manifest_of_its_export():
    example = Path(rtool.__file__).parent / "examples/models/osnet_x0_25_synthetic.onnx"
    signature = read_signature(example)
    assert lacking_proof(signature) is None
    manifest = json.loads(Path(f"{example}.manifest.json").read_text())
    assert manifest["steps"] == json.loads(signature.metadata["rtool.steps"])
