"""`rtool evaluate --scores ... --masked P`: what is printed and written, and what is refused."""

import json

import numpy as np
import pytest

from rtool.cli import main

from .test_command import save_linear

FACES = "synthetic-faces:identities=6,images=4,seed=2,size=16x8"


@pytest.fixture
def model(tmp_path):
    return str(save_linear(tmp_path / "m.onnx"))


def test_masked_pairs_are_printed_and_written(model, tmp_path, capsys):
    folder, matrix = tmp_path / "out", tmp_path / "s.npy"
    command = ["evaluate", model, FACES, "--masked", "1", "--far", "1e-1,1e-3", "-o", str(folder)]
    assert main.run([*command, "--similarity", str(matrix), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((folder / "result.json").read_text())
    assert printed["scores"] == written["scores"]
    score = written["scores"]["embedding"]
    assert (score["genuine"], score["impostor"]) == (36, 240)
    assert score["vr_at_far"]["1e-1"]["impostors_that_may_pass"] == 24
    assert score["vr_at_far"]["1e-3"]["why"].startswith("too few impostors: 240 pairs")
    assert written["masks"] == "100% of the second images of pairs, medical, seed 0"
    assert np.load(matrix).shape == (1, 24, 24)
    assert "report.html" in {path.name for path in folder.iterdir()}
    assert {"evaluation.json", "table.csv", "roc.csv"} <= {path.name for path in folder.iterdir()}
    assert "Masks drawn: 100% of the second images" in (folder / "report.html").read_text()


def test_a_table_has_the_rates_that_are_asked(model, capsys):
    assert main.run(["evaluate", model, FACES, "--scores", "embedding", "--far", "0.05"]) == 0
    printed = capsys.readouterr().out
    assert "embedding.VR at FAR 5e-2" in printed
    assert "12 impostor pairs pass" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scores", "matchr"], "--scores: no score 'matchr'"),
        (["--scores", ","], "--scores: name at least one"),
        (["--scores", "embedding,embedding"], "'embedding' is named twice"),
        (["--scores", "matcher"], "--scores: matcher needs a matcher, and this model has none"),
        (["--scores", "embedding", "--weight", "matcher=1"], "weighs the combined score; add it to --scores"),
        (["--scores", "embedding,combined", "--weight", "matcher=-1"], "weights are numbers from 0"),
        (["--scores", "embedding,combined", "--weight", "matcher=nan"], "weights are numbers from 0"),
        (["--scores", "combined", "--weight", "a=1"], "give embedding=W and matcher=W"),
        (["--scores", "combined", "--weight", "matcher=a"], "'a' is not a number"),
        (["--scores", "combined", "--weight", "embedding=0", "--weight", "matcher=0"], "both are 0"),
        (["--masked", "1.5"], "between 0 and 1"),
        (["--masked", "-0.5"], "between 0 and 1"),
        (["--masked", "nan"], "between 0 and 1"),
        (["--far", "0"], "give rates above 0"),
        (["--far", "a"], "--far a: give rates"),
        (["--side", "both"], "--side: no masks are drawn"),
        (["--mask-kind", "scarf", "--scores", "embedding"], "--mask-kind: no masks are drawn"),
        (["--masked", "1", "--mask-points", "1,2"], "--mask-points '1,2'"),
        (["--masked", "1", "--against", "MODEL"], "--against: does not go with --scores"),
        (["--scores", "embedding", "--protocol", "retrieval"], "leave retrieval out"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_way_out(model, options, said, capsys):
    options = [model if word == "MODEL" else word for word in options]
    assert main.run(["evaluate", model, FACES, *options]) == 2
    assert said in capsys.readouterr().err


def test_faces_of_an_unknown_crop_need_their_points(model, tmp_path, capsys):
    from PIL import Image

    for number in range(16):
        path = tmp_path / "faces" / f"p{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(path)
    faces = str(tmp_path / "faces")
    assert main.run(["evaluate", model, faces, "--masked", "1"]) == 2
    assert "--mask-points: where the eyes, nose and mouth lie in pictures of 16 x 8 pixels" in capsys.readouterr().err
    assert main.run(["evaluate", model, faces, "--masked", "1", "--mask-kind", "block", "-q"]) == 0
    points = "2,5 6,5 4,8 2.5,12 5.5,12"
    assert main.run(["evaluate", model, faces, "--masked", "1", "--mask-points", points, "-q"]) == 0
