"""`rtool evaluate` and `rtool config`: what they print, and what their options do."""

import json

import pytest

from rtool.cli import main
from rtool.errors import InputError
from rtool.finetune.embedding.embedders import open_embedder

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,size=32x16"
FACES = "synthetic-faces:identities=6,images=6,seed=2,size=32x32"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle of a zoo network with fresh weights."""
    from rtool.converters import build_architecture, save_bundle
    from rtool.converters.records.preprocessing import Preprocessing

    path = tmp_path_factory.mktemp("model") / "m.rtool"
    architecture = {"name": "osnet_x0_25", "options": {}}
    module = build_architecture("osnet_x0_25").eval()
    return save_bundle(module, path, architecture=architecture, preprocessing=Preprocessing(32, 16))


def test_evaluate_measures_re_ranked_retrieval(model, capsys):
    results = []
    for options in ([], ["--rerank"]):
        assert main.run(["evaluate", str(model), PEOPLE, "--json", *options]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert [result["reranked"] for result in results] == [False, True]
    assert results[0]["mAP"] != results[1]["mAP"]


def test_evaluate_quietly_prints_the_main_metric_in_one_line(model, capsys):
    assert main.run(["evaluate", str(model), PEOPLE, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["mAP"]
    assert main.run(["evaluate", str(model), PEOPLE, "-q"]) == 0
    assert capsys.readouterr().out == f"retrieval: mAP {measured:.4f}\n"
    assert main.run(["evaluate", str(model), FACES, "-q"]) == 0
    assert capsys.readouterr().out.startswith("verification: accuracy 0.")


def test_a_negative_output_is_refused_before_anything_is_opened(capsys):
    assert main.run(["evaluate", "nowhere.onnx", "nowhere", "--embedding", "-1"]) == 2
    assert "-1 is not in the range x>=0" in capsys.readouterr().err
    with pytest.raises(InputError, match="output -1 was asked for; outputs count from 0"):
        open_embedder("nowhere.onnx", output=-1)


def test_evaluate_writes_the_roc_of_a_verification(model, tmp_path, capsys):
    path = tmp_path / "roc.csv"
    assert main.run(["evaluate", str(model), FACES, "--roc", str(path), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    header, *rows = path.read_text().splitlines()
    assert header == "far,tar"
    assert rows[-1] == "1.0,1.0"
    assert main.run(["evaluate", str(model), PEOPLE, "--roc", str(path)]) == 2
    assert "a ROC is of a verification" in capsys.readouterr().err


def test_converting_params_lists_what_was_left_out(tmp_path, capsys):
    (tmp_path / "params.json").write_text(json.dumps({"optimizer": "nesterov", "gaussian_noise": True, "[red]": 1}))
    assert main.run(["config", "convert", str(tmp_path / "params.json")]) == 0
    out = capsys.readouterr().out
    assert "gaussian_noise  approximated: augment.noise 0.5" in out
    assert "[red]           left out: no counterpart of this key is known" in out
    (tmp_path / "params.json").write_text(json.dumps({"optimizer": "radam"}))
    assert main.run(["config", "convert", str(tmp_path / "params.json"), "-o", str(tmp_path / "b.yaml")]) == 2
    assert not (tmp_path / "b.yaml").exists()
