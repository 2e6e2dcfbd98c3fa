"""A run with a matcher is measured by three scores on several sets, and `rtool evaluate RUN` finds the same figures."""

import json

import numpy as np
import pytest
from PIL import Image

from rtool.cli import main
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics

SETS = {name: f"synthetic-faces:identities=8,images=5,seed={seed},size=32x16" for name, seed in (("a", 2), ("b", 3))}
SCORES = ["embedding", "matcher", "combined"]


@pytest.fixture
def recipe(write_recipe):
    return write_recipe(
        data={
            "train": "synthetic-faces:identities=8,images=4,seed=1,size=32x16",
            "evaluate": SETS,
            "batch": 8,
            "sampler": "pk",
        },
        augment={"mask": 0.5, "mask_kinds": ["medical", "block"], "flip": 0.5},
        losses=[{"kind": "arcface", "scale": 16, "weight": 0.1}, {"kind": "qaconv"}, {"kind": "occlusion"}],
        evaluation={"scores": SCORES, "combine": {"embedding": 0.6, "matcher": 0.4}, "first": False},
    )


def test_a_run_and_the_command_measure_its_matcher_alike(recipe, capsys):
    result = finetune(recipe, quiet=True)
    (row,) = [row for row in read_metrics(result.run_dir) if row["kind"] == "evaluation"]
    assert result.best_metric == row["mean.combined.accuracy"]
    for score in SCORES:
        both = [row[f"{name}.{score}.accuracy"] for name in SETS]
        assert row[f"mean.{score}.accuracy"] == pytest.approx(sum(both) / 2)
    weights = ["--weight", "embedding=0.6", "--weight", "matcher=0.4"]
    command = ["evaluate", str(result.run_dir), f"a={SETS['a']}", f"b={SETS['b']}", "--scores", ",".join(SCORES)]
    assert main.run([*command, *weights, "--json"]) == 0
    sets = json.loads(capsys.readouterr().out)["sets"]
    for name in SETS:
        for score in SCORES:
            found = sets[name]["scores"][score]["accuracy"]
            assert found == pytest.approx(row[f"{name}.{score}.accuracy"], abs=1e-6), (name, score)
    assert sets["a"]["combined"]["weights"] == {"embedding": pytest.approx(0.6), "matcher": pytest.approx(0.4)}


def test_a_run_without_a_matcher_has_no_matcher_score(write_recipe, capsys):
    result = finetune(write_recipe(), quiet=True)
    assert main.run(["evaluate", str(result.run_dir), SETS["a"], "--scores", "matcher"]) == 2
    assert "--scores: matcher needs a matcher, and this model has none; train it with a loss qaconv" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["losses=[{kind: arcface}]"], "evaluation.scores: matcher needs a matcher, and no loss trains one"),
        (["augment.mask=0"], "losses: occlusion learns which pixels show the face, and nothing says it"),
        (["evaluation.protocol=retrieval"], "retrieval"),
        (["evaluation.metric=mean.combined.acuracy"], "did you mean"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(recipe, overrides, said, capsys):
    assert main.run(["finetune", str(recipe), *overrides, "--dry-run"]) == 2
    assert said.lower() in capsys.readouterr().err.lower()


def test_masks_in_files_are_shown_beside_their_images(write_recipe, tmp_path):
    faces = tmp_path / "faces"
    for person in "abcdefgh":
        (faces / person).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng([ord(person), number]).integers(0, 200, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(faces / person / f"{number}.png")
            mask = np.repeat(np.repeat([[255], [0]], 16, axis=0), 16, axis=1).astype(np.uint8)
            Image.fromarray(mask).save(faces / person / f"{number}_mask.png")
    recipe = write_recipe(
        data={"train": str(faces), "visible": str(faces), "batch": 8, "sampler": "pk"},
        augment={"flip": 0},
        losses=[{"kind": "arcface"}, {"kind": "occlusion"}],
    )
    sheet = tmp_path / "sheet.png"
    assert main.run(["finetune", str(recipe), "--show-batch", str(sheet)]) == 0
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    first = pixels[12 : 12 + 96, 48:96]  # beside the first image, three times as large
    assert (first[:48] == 255).all()
    assert (first[48:] == 0).all()


def test_masks_lie_where_the_run_was_told_that_faces_are(write_recipe, tmp_path, capsys):
    points = [[4, 10], [12, 10], [8, 16], [5, 23], [11, 23]]
    result = finetune(write_recipe(augment={"mask": 0.5, "mask_points": points}), quiet=True)
    faces = tmp_path / "faces"
    for person in "abcd":
        (faces / person).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng([ord(person), number]).integers(0, 200, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(faces / person / f"{number}.png")
    command = ["evaluate", str(result.run_dir), str(faces), "--masked", "1", "--json"]
    assert main.run(command) == 0  # of 32 x 16 pixels nothing else says it
    found = json.loads(capsys.readouterr().out)["scores"]
    assert main.run([*command, "--mask-points", " ".join(f"{x},{y}" for x, y in points)]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == found
    assert main.run([*command, "--mask-points", "4,20 12,20 8,26 5,30 11,30"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] != found
