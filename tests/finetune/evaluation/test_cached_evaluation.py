"""`evaluate --cache`: the second run calls the model 0 times; content decides, not names; another model misses all."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from rtool.cli.main import run
from rtool.converters.runtime.runners import OnnxRunner
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.evaluation.evaluation import evaluate

FACES = "synthetic-faces:identities=6,images=6,seed=2,size=16x16"


def linear_model(path):
    """Flatten and multiply 16 images at a time; a fixed batch is not proved by running."""
    weight = np.random.default_rng(0).normal(size=(3 * 16 * 16, 8)).astype("f4")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def images_run(monkeypatch):
    """How many images ONNX Runtime was given so far; two for each, with its mirror image."""
    given = []
    original = OnnxRunner.run

    def counted(self, *arrays):
        given.append(len(arrays[0]))
        return original(self, *arrays)

    monkeypatch.setattr(OnnxRunner, "run", counted)
    return lambda: sum(given)


@pytest.fixture
def folder(tmp_path):
    faces = open_dataset(FACES)
    for index, identity in enumerate(faces.identities):
        path = tmp_path / "faces" / str(identity) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        faces.images[index].save(path)
    linear_model(tmp_path / "m.onnx")
    return tmp_path


def test_the_second_run_calls_no_model_and_gives_the_same(folder, images_run):
    plain = evaluate(folder / "m.onnx", folder / "faces")
    first = evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache")
    before = images_run()
    assert plain == first == evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache")
    assert images_run() == before


def test_renamed_files_are_known_and_a_changed_pixel_is_not(folder, images_run):
    evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache")
    for path in sorted((folder / "faces").glob("*/*.png")):
        path.rename(path.with_name(f"new{path.name}"))
    before = images_run()
    evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache")
    assert images_run() == before
    path = next((folder / "faces" / "0").iterdir())
    pixels = np.array(Image.open(path))
    pixels[3, 3, 1] ^= 1
    Image.fromarray(pixels).save(path)
    evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache")
    assert images_run() - before == 2 * 16  # one image, padded to the fixed batch, and its mirror image
    (kept,) = (folder / "cache").glob("*.npz")
    assert len(np.load(kept)["digest"]) == 37


@pytest.mark.parametrize("options", [{"flip": False}, {"preprocessing": "arcface,size=16x16"}])
def test_another_flip_or_preprocessing_misses_all(options, folder, images_run):
    evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache", preprocessing="imagenet")
    before = images_run()
    changed = {"preprocessing": "imagenet", **options}
    evaluate(folder / "m.onnx", folder / "faces", cache=folder / "cache", **changed)
    assert images_run() > before


def test_the_command_prints_identical_bytes(folder, capsys, images_run):
    shutil.copy(folder / "m.onnx", folder / "copy.onnx")
    printed = []
    for model in ("m.onnx", "copy.onnx"):
        command = ["evaluate", str(folder / model), str(folder / "faces"), "--cache", str(folder / "cache"), "--json"]
        assert run([*command, "--batch", "auto"]) == 0
        printed.append(capsys.readouterr().out)
        if model == "m.onnx":
            before = images_run()
    assert printed[0] == printed[1]
    assert json.loads(printed[0])["protocol"] == "verification"
    assert images_run() == before


@pytest.mark.parametrize("batch", ["0", "-3", "many", "1.5"])
def test_a_batch_that_is_no_number_is_a_usage_error(batch, folder, capsys):
    assert run(["evaluate", str(folder / "m.onnx"), str(folder / "faces"), "--batch", batch]) == 2
    assert "a number from 1, or auto" in capsys.readouterr().err
