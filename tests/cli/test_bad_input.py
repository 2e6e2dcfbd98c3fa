"""Bad input from the outside: one message that names it, exit code 2, no traceback, nothing left behind."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import rtool
from rtool.cli.main import run

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
EXAMPLE = Path(rtool.__file__).parent / "examples" / "models" / "osnet_x0_25_synthetic.onnx"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><head><title>Sign in</title></head></html>")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 921616\n")


def truncated(path: Path) -> None:
    path.write_bytes(EXAMPLE.read_bytes()[:400_000])


def without_weights(path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)


def folder(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    assert not path.exists()


BROKEN_MODELS = (empty, web_page, lfs_pointer, truncated, folder, missing)
COMMANDS = {
    "inspect": ["inspect", "{model}"],
    "onnx2torch": ["onnx2torch", "{model}", "-o", "out.rtool"],
    "export": ["export", "{model}", "-o", "out.onnx"],
    "evaluate": ["evaluate", "{model}", "synthetic-people:identities=4"],
    "deploy": ["deploy", "{model}", "--name", "m"],
    "parity": ["bench", "parity", "{model}", str(EXAMPLE)],
    "latency": ["bench", "latency", "{model}"],
}


def refuse(arguments: list[str], capsys, *mentioned: str) -> str:
    """Run, and check that it was refused as it should be; returns the message."""
    code = run(arguments)
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert "Traceback" not in captured.err + captured.out
    for text in mentioned:
        assert text in captured.err
    return captured.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", BROKEN_MODELS, ids=lambda make: make.__name__)
def test_a_broken_model_file_is_named_and_nothing_is_left(make, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.onnx"
    make(model)
    before = sorted(tmp_path.rglob("*"))
    content = model.read_bytes() if model.is_file() else None
    refuse([part.format(model=model) for part in COMMANDS[command]], capsys, "model.onnx")
    assert sorted(tmp_path.rglob("*")) == before
    assert content is None or model.read_bytes() == content


def test_a_model_without_weights_cannot_be_made_trainable(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    without_weights(tmp_path / "model.onnx")
    refuse(["onnx2torch", "model.onnx"], capsys, "model.onnx", "weights")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("change", "mentioned"),
    [
        ("optimizer.lrr=1", "did you mean lr"),
        ("epochs=many", "epochs"),
        ("data.trian=x", "did you mean train"),
        ("model.reference=nothing.onnx", "nothing.onnx"),
        ("data.train=nowhere", "nowhere"),
        ("device=cuda:7", "cuda:7"),
    ],
)
def test_a_wrong_configuration_names_the_key_or_the_nearest(change, mentioned, tmp_path, capsys):
    recipe = EXAMPLE.parent.parent / "demo.yaml"
    own = [f"output={tmp_path}", f"model.reference={EXAMPLE}"]
    refuse(["finetune", str(recipe), *own, change], capsys, mentioned)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_calibration_images_without_anything_to_calibrate_are_refused(tmp_path, capsys):
    refuse(["onnx2torch", str(EXAMPLE), "-o", str(tmp_path / "o"), "--calibrate", "x"], capsys, "--restore-bn")
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_folder_can_be_too_small_or_damaged(tmp_path, capsys):
    arguments = ["onnx2torch", str(EXAMPLE), "-o", str(tmp_path / "o.rtool"), "--restore-bn", "--calibrate"]
    few = people(tmp_path / "few", identities=2, images=3)
    message = refuse([*arguments, str(few)], capsys, "6 images are too few", "at least 8")
    damaged = people(tmp_path / "damaged", identities=2, images=6, broken=1)
    refuse([*arguments, str(damaged)], capsys, "broken0.png", "1 of 13")
    refuse([*arguments, str(tmp_path / "nowhere")], capsys, "nowhere")
    assert not list(tmp_path.glob("*.rtool*"))
    assert message.count("\n") <= 3  # progress, then one message


def test_images_of_another_size_than_the_models_are_refused(tmp_path, capsys):
    (tmp_path / "small.json").write_text(json.dumps({"height": 64, "width": 64, **IMAGENET}))
    arguments = ["--restore-bn", "--calibrate", "synthetic-people:identities=4", "--calibration-images", "32"]
    own = ["onnx2torch", str(EXAMPLE), "-o", str(tmp_path / "o.rtool"), "--preprocessing", str(tmp_path / "small.json")]
    refuse([*own, *arguments], capsys, "has a fixed input of 128x64, got size 64x64", "leave the size out")
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]


def with_nan(path: Path) -> Path:
    model = onnx.load(EXAMPLE)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("command", ["export", "onnx2torch"])
def test_weights_that_are_not_numbers_are_refused(command, tmp_path, capsys):
    model = with_nan(tmp_path / "nan.onnx")
    refuse([command, str(model), "-o", str(tmp_path / "out.x")], capsys, "NaN")
    assert [path.name for path in tmp_path.iterdir()] == ["nan.onnx"]


def test_an_output_inside_the_source_bundle_is_refused(tmp_path, capsys):
    bundle = tmp_path / "m.rtool"
    assert run(["onnx2torch", str(EXAMPLE), "-o", str(bundle), "-q"]) == 0
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    refuse(["export", str(bundle), "-o", str(bundle / "out.onnx")], capsys, "lies inside the source")
    refuse(["export", str(EXAMPLE), "-o", str(EXAMPLE)], capsys, "is the source itself")
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before


def test_weights_of_another_architecture_are_refused(tmp_path, capsys):
    torch.save(rtool.converters.build_architecture("osnet_x0_5").state_dict(), tmp_path / "other.pth")
    arguments = ["onnx2torch", str(EXAMPLE), "-o", str(tmp_path / "o.rtool"), "--weights", str(tmp_path / "other.pth")]
    refuse(arguments, capsys, "other.pth", "lie behind no layer of the fused one by name")
    restoring = ["--restore-bn", "--calibrate", "synthetic-people:identities=4", "--calibration-images", "16"]
    refuse([*arguments, *restoring], capsys, "other.pth", "does not fit the network", "another shape")
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]


def test_a_batch_that_cannot_be_proved_is_refused(tmp_path, capsys):
    """A weight with a row for each of the two images: there is no such graph for another batch."""
    weight = numpy_helper.from_array(np.float32([[1, 2, 3], [4, 5, 6]]), "w")
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "rows", shape[:1], shape[1:], [weight])
    model = tmp_path / "rows.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    for batch in ("dynamic", "4"):
        refuse(["export", str(model), "-o", str(tmp_path / "out.onnx"), "--batch", batch], capsys, "cannot be verified")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.onnx"]


def test_a_network_that_lost_no_batchnorm_says_so_and_why(tmp_path, capsys):
    """A transformer: LayerNorm is not BatchNorm, and restoring nothing is not a success."""
    layers = [torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Flatten(2), torch.nn.LayerNorm(4), torch.nn.Linear(4, 8)]
    model, size = tmp_path / "tokens.onnx", tmp_path / "size.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.nn.Sequential(*layers).eval()
        torch.onnx.export(module, torch.randn(1, 3, 16, 16), model, dynamo=False, opset_version=17)
    size.write_text(json.dumps({"height": 16, "width": 16, **IMAGENET}))
    arguments = ["--restore-bn", "--calibrate", "synthetic-people:identities=4", "--preprocessing", str(size)]
    message = ["no layer that lost", "works on sequences", "without it"]
    refuse(["onnx2torch", str(model), "-o", str(tmp_path / "o.rtool"), *arguments], capsys, *message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["size.json", "tokens.onnx"]


def test_a_preprocessing_file_is_read_with_its_mistakes_named(tmp_path, capsys):
    file = tmp_path / "p.json"
    for text, mentioned in (
        ('{"height": 64}', "'width' is missing"),
        ('{"height": 64, "width": 32, "maen": [0]}', "did you mean mean"),
        ("[1]", "got list"),
        ('{"height": 64, "width": 32, "mean": 1}', "p.json"),
    ):
        file.write_text(text)
        refuse(["export", str(EXAMPLE), "--preprocessing", str(file)], capsys, "p.json", mentioned)


def test_figures_cannot_be_saved_in_a_folder_that_is_not_there(tmp_path, capsys):
    refuse(["bench", "latency", str(EXAMPLE), "--save", str(tmp_path / "no" / "x.json")], capsys, "create it first")


def people(root: Path, identities: int, images: int, broken: int = 0) -> Path:
    draw = np.random.default_rng(0)
    for identity in range(identities):
        (root / f"p{identity}").mkdir(parents=True)
        for image in range(images):
            pixels = draw.integers(0, 256, (16, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"p{identity}" / f"{image}.png")
    for number in range(broken):
        (root / "p0" / f"broken{number}.png").write_bytes(b"\x89PNG not really")
    return root


def test_one_identity_is_too_few(tmp_path, capsys):
    data = people(tmp_path / "data", identities=1, images=6)
    refuse(["evaluate", str(EXAMPLE), str(data)], capsys, "identit")


def test_too_many_unreadable_images_are_counted_and_named(tmp_path, capsys):
    data = people(tmp_path / "data", identities=3, images=6, broken=2)
    refuse(["evaluate", str(EXAMPLE), str(data)], capsys, "broken0.png", "2 of 20")


def test_a_model_whose_weight_is_not_finite_never_passes_parity(tmp_path, capsys):
    with_nan(tmp_path / "nan.onnx")
    assert run(["bench", "parity", str(EXAMPLE), str(tmp_path / "nan.onnx"), "--min-cosine", "0.5"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["onnx2torch", str(EXAMPLE), "-o", ""],
        ["onnx2torch", str(EXAMPLE), "-o", "."],
        ["export", str(EXAMPLE), "-o", ""],
        ["export", str(EXAMPLE), "-o", "."],
        ["export", str(EXAMPLE), "-o", "x.onnx", "--batch", "1000000000"],
        ["onnx2torch", str(EXAMPLE), "--batch", "99999999999999"],
        ["evaluate", str(EXAMPLE), "synthetic-people:seed=-1,cameras=3,identities=4"],
        ["evaluate", str(EXAMPLE), "synthetic-people:identities=999999999999999,cameras=3"],
        ["evaluate", str(EXAMPLE), "synthetic-faces:identities=4,images=3,size=900000x900000"],
    ],
)
def test_values_that_nothing_can_be_made_of_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
