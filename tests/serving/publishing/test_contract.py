"""Another contract than the one that is served is refused with both sides, unless it is asked for."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from rtool.errors import InputError
from rtool.serving import deploy, deploy_packer, rollback, validate_repository

TAKEN = {"mean": [0.0] * 3, "std": [1.0] * 3, "height": 8, "width": 4, "channel_order": "rgb"}


@pytest.fixture
def root(tmp_path: Path, onnx_files) -> Path:
    folder = tmp_path / "models"
    deploy(onnx_files["reid"], name="m", repository=folder, device="cpu")
    return folder


def renamed(source: Path, path: Path, old: str, new: str) -> Path:
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    onnx.save(model, path)
    return path


def retyped(source: Path, path: Path) -> Path:
    """float64 embeddings."""
    model = onnx.load(source)
    model.graph.node[-1].output[0] = "narrow"
    model.graph.node.append(helper.make_node("Cast", ["narrow"], ["embedding"], to=TensorProto.DOUBLE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, path)
    return path


def stating(source: Path, path: Path, **changes: object) -> Path:
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"rtool.preprocessing": json.dumps(TAKEN | changes)})
    onnx.save(model, path)
    return path


CHANGES = {
    "input name": (lambda f, p, m: renamed(f["reid"], p, "images", "crops"), "input 'images': served TYPE_FP32 .*none"),
    "output name": (
        lambda f, p, m: renamed(f["reid"], p, "embedding", "feature"),
        r"output 'feature': served \(none\), new TYPE_FP32 \[8\]",
    ),
    "dtype": (lambda f, p, m: retyped(f["reid"], p), r"served TYPE_FP32 \[8\], new TYPE_FP64 \[8\]"),
    "embedding size": (
        lambda f, p, m: m("reid", p, features=11),
        r"output 'embedding': served TYPE_FP32 \[8\], new TYPE_FP32 \[11\]",
    ),
    "fixed batch": (lambda f, p, m: m("reid", p, batch=4), "rows of a request: served 16 rows, new 4 rows"),
    "open batch": (lambda f, p, m: m("reid", p, batch="N"), "served 16 rows, new any number of rows"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_contract_is_refused_with_both_sides_unless_asked_for(root, onnx_files, make_model, tmp_path, change):
    make, said = CHANGES[change]
    path = make(onnx_files, tmp_path / "new.onnx", make_model)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=said) as error:
        deploy(path, name="m", repository=root, force=True)
    assert "--new-contract" in str(error.value)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    result = deploy(path, name="m", repository=root, force=True, new_contract=True)
    assert json.loads((result.path / "manifest.json").read_text())["new_contract"]
    assert validate_repository(root) == ()


def test_another_preprocessing_is_another_contract(root, onnx_files, tmp_path):
    first = stating(onnx_files["reid"], tmp_path / "first.onnx")
    deploy(first, name="m", repository=root, force=True)  # nothing was stated before
    deploy(stating(onnx_files["reid"], tmp_path / "same.onnx"), name="m", repository=root, force=True)
    other = stating(onnx_files["reid"], tmp_path / "other.onnx", channel_order="bgr")
    with pytest.raises(InputError, match="preprocessing, channel_order: served rgb, new bgr"):
        deploy(other, name="m", repository=root, force=True)
    deploy_packer("m", name="front", repository=root)
    deploy(other, name="m", repository=root, force=True, new_contract=True)
    (problem,) = validate_repository(root)
    assert "preprocessing: the packer states" in str(problem)


def test_a_packer_in_front_is_part_of_the_contract(root, onnx_files, make_model, tmp_path):
    deploy_packer("m", name="front", repository=root)
    wider = make_model("reid", tmp_path / "wider.onnx", features=11)
    with pytest.raises(InputError, match=r"'front' in front of it: output 'embedding': the packer needs .*\[16, 8\]"):
        deploy(wider, name="m", repository=root)
    deploy(wider, name="m", repository=root, new_contract=True)
    (problem,) = validate_repository(root)
    assert "the packer needs TYPE_FP32 [16, 8] of 'm', which has TYPE_FP32 [16, 11]" in str(problem)
    with pytest.raises(InputError, match=r"served TYPE_FP32 \[8\], new TYPE_FP32 \[11\]"):
        deploy_packer("m", name="front", repository=root)
    deploy_packer("m", name="front", repository=root, new_contract=True)
    assert validate_repository(root) == ()


ENSEMBLE = """name: "both" platform: "ensemble" max_batch_size: 0
input [ {{ name: "image" data_type: TYPE_FP32 dims: [16, 3, 8, 4] }} ]
output [ {{ name: "vector" data_type: TYPE_FP32 dims: [16, 8] }} ]
ensemble_scheduling {{ step [ {{ model_name: "{model}" model_version: -1
  input_map {{ key: "{input}" value: "image" }} output_map {{ key: "embedding" value: "vector" }} }} ] }}
"""


def ensemble(root: Path, model: str = "m", input: str = "images") -> None:
    (root / "both/1").mkdir(parents=True, exist_ok=True)
    (root / "both/1/empty").touch()
    (root / "both/config.pbtxt").write_text(ENSEMBLE.format(model=model, input=input))


def test_an_ensemble_in_front_is_part_of_the_contract(root, make_model, tmp_path):
    ensemble(root)
    assert validate_repository(root) == ()
    wider = make_model("reid", tmp_path / "wider.onnx", features=11)
    with pytest.raises(InputError, match=r"'both' in front of it: .*'vector' is TYPE_FP32 \[16, 8\].* \[16, 11\]"):
        deploy(wider, name="m", repository=root)
    ensemble(root, input="crops")
    said = " ".join(map(str, validate_repository(root)))
    assert "input 'crops': it has no such input" in said
    assert "input 'images': the model needs it" in said
    ensemble(root, model="gone")
    assert "there is no model 'gone'" in str(validate_repository(root)[0])


def test_a_rollback_undoes_a_new_contract_and_jumps_over_none_unasked(root, onnx_files, make_model, tmp_path):
    wider = make_model("reid", tmp_path / "wider.onnx", features=11)
    deploy(wider, name="m", repository=root, new_contract=True)
    deploy(wider, name="m", repository=root)
    with pytest.raises(InputError, match=r"served TYPE_FP32 \[11\], new TYPE_FP32 \[8\]"):
        rollback("m", repository=root, to=1)
    assert rollback("m", repository=root).served == (2,)
    back = rollback("m", repository=root)  # to what version 2 replaced
    assert (back.served, back.notes) == (
        (1,),
        ("new contract: output 'embedding': served TYPE_FP32 [11], new TYPE_FP32 [8]",),
    )
