"""`rtool evaluate` on several sets, against another model, with a report, and what it refuses."""

import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli import main

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,size=16x8"
OTHERS = "synthetic-people:identities=5,images=8,seed=3,size=16x8"
FACES = "synthetic-faces:identities=6,images=6,seed=2,size=16x8"


def save_linear(path, scale=1.0, seed=0, numbers=8):
    weight = np.random.default_rng(seed).normal(size=(3 * 16 * 8, numbers)).astype("f4") * np.float32(scale)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", numbers])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def model(tmp_path):
    return str(save_linear(tmp_path / "m.onnx"))


def test_several_sets_are_measured_by_name_with_their_mean(model, capsys):
    assert main.run(["evaluate", model, f"one={PEOPLE}", f"two={OTHERS}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["sets"]) == ["one", "two"]
    values = [found["sets"][name]["mAP"] for name in ("one", "two")]
    assert found["mean"]["mAP"] == pytest.approx(sum(values) / 2)
    assert main.run(["evaluate", model, PEOPLE, FACES]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^synthetic-people\.mAP ", printed, re.MULTILINE)
    assert re.search(r"^synthetic-faces\.accuracy ", printed, re.MULTILINE)
    assert main.run(["evaluate", model, PEOPLE, OTHERS]) == 2
    assert "another set is named 'synthetic-people' too" in capsys.readouterr().err


def test_a_model_against_itself_differs_by_noise_and_against_noise_by_more(model, tmp_path, capsys):
    assert main.run(["evaluate", model, PEOPLE, "--against", model, "--json"]) == 0
    against = json.loads(capsys.readouterr().out)["against"]
    assert set(against) == {"mAP", "rank1", "rank5", "rank10", "rank20", "mINP"}
    assert all(row["low"] == row["high"] == 0 and not row["beyond_noise"] for row in against.values())
    assert main.run(["evaluate", model, FACES, "--against", model]) == 0
    assert "no difference beyond noise" in capsys.readouterr().out
    constant = str(save_linear(tmp_path / "constant.onnx", scale=0.0))
    assert main.run(["evaluate", model, PEOPLE, "--against", constant, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["against"]["mAP"]
    assert row["beyond_noise"] is (row["low"] > 0 or row["high"] < 0)
    assert row["low"] <= row["value"] - row["other"] <= row["high"]


def test_the_report_holds_figures_curves_and_images(model, tmp_path, capsys):
    folder = tmp_path / "report"
    arguments = ["evaluate", model, f"people={PEOPLE}", f"faces={FACES}", "--against", model, "-o", str(folder)]
    assert main.run(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4  # CMC and ROC, and a histogram of each
    assert "Same pairs that look least alike" in page
    assert "Pairs on which the two models differ most" in page
    assert "Rankings: the hardest queries" in page
    assert page.count("data:image/jpeg;base64,") > 30
    assert "http://" not in re.sub(
        r'(xmlns(:\w+)?|rdf:resource)="[^"]*"|<metadata>.*?</metadata>', "", page, flags=re.S
    )
    values = json.loads((folder / "evaluation.json").read_text())
    assert values["sets"]["people"]["protocol"] == "retrieval"
    assert (folder / "table.csv").read_text().startswith("name,value\npeople.protocol,retrieval\n")


def test_what_was_measured_is_kept_when_a_later_set_fails(model, tmp_path, capsys):
    from PIL import Image

    folder = tmp_path / "faces"
    for person in range(12):
        (folder / str(person)).mkdir(parents=True)
        for number in range(4):
            path = folder / str(person) / f"{number}.png"
            Image.fromarray(np.full((16, 8, 3), 20 * person + number, "u1")).save(path)
    for number in range(4):
        (folder / "3" / f"{number}.png").write_bytes(b"no image")
    kept = tmp_path / "kept"
    assert main.run(["evaluate", model, f"good={PEOPLE}", f"bad={folder}", "-o", str(kept)]) == 2
    printed = capsys.readouterr()
    assert "good.mAP" in printed.out
    assert "4 of 48 images cannot be read" in printed.err
    assert list(json.loads((kept / "evaluation.json").read_text())) != []
    assert "mAP" in (kept / "report.html").read_text()


def test_embeddings_that_are_not_finite_exit_with_2(tmp_path, capsys):
    path = save_linear(tmp_path / "nan.onnx", scale=float("nan"))
    assert main.run(["evaluate", str(path), PEOPLE]) == 2
    assert "embeddings hold NaN or infinity" in capsys.readouterr().err


def test_ranking_options_change_what_is_measured(model, capsys):
    values = {}
    for options in ((), ("--rerank",), ("--rerank", "--k1", "3", "--k2", "2", "--lambda", "0.9"), ("--expand", "3")):
        assert main.run(["evaluate", model, PEOPLE, "--json", *options]) == 0
        values[options] = json.loads(capsys.readouterr().out)
    assert len({found["mAP"] for found in values.values()}) == 4
    assert main.run(["evaluate", model, PEOPLE, "--multi-query", "--distance", "euclidean", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["multi_query"], found["distance"]) == (True, "euclidean")
    assert main.run(["evaluate", model, FACES, "--expand", "3"]) == 2
    assert "query expansion: " in capsys.readouterr().err


def test_limit_measures_whole_people(model, capsys):
    assert main.run(["evaluate", model, PEOPLE, "--limit", "20", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["queries"] + found["gallery"] == 24  # three people of eight images
    assert "limited to 24 of 48 images, 3 of 6 identities" in printed.err


def test_random_weights_are_warned_about(capsys):
    assert main.run(["evaluate", "osnet_x0_25", "synthetic-people:identities=3,images=8,seed=2,size=64x32"]) == 0
    assert "warning: osnet_x0_25 has random weights" in capsys.readouterr().err


def test_ones_own_function_measures(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_metric_a.py").write_text(
        "def spread(images):\n"
        "    return {'spread': float(images.embeddings.std()), 'people': len(set(images.identities.tolist()))}\n"
        "def broken(images):\n    return {'ratio': 1 / 0}\n"
        "def text(images):\n    return 'good'\n"
        "number = 3\n"
    )
    assert main.run(["evaluate", model, PEOPLE, "--function", "own_metric_a:spread", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"], found["people"]) == ("function", 6.0)
    for name, message in (
        (
            "own_metric_a:broken",
            "own_metric_a:broken failed: ZeroDivisionError: division by zero (own_metric_a.py, line 4)",
        ),
        ("own_metric_a:text", "returned str, expected a dict from names to numbers"),
        ("own_metric_a:number", "is a int, not a function"),
        ("own_metric_a:spraed", "did you mean spread?"),
        ("no_such_module:spread", "no module 'no_such_module' in"),
        ("own_metric_a", "is not MODULE:NAME"),
    ):
        assert main.run(["evaluate", model, PEOPLE, "--function", name]) == 2
        assert message in capsys.readouterr().err


def test_classification_takes_one_score_for_each_class(tmp_path, capsys):
    six = str(save_linear(tmp_path / "six.onnx", numbers=6))
    assert main.run(["evaluate", six, FACES, "--protocol", "classification", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"], found["images"], found["top10"]) == (6, 36, 1.0)
    eight = str(save_linear(tmp_path / "eight.onnx"))
    assert main.run(["evaluate", eight, FACES, "--protocol", "classification"]) == 2
    assert "the output has 8 numbers and the data 6 identities" in capsys.readouterr().err


def test_classification_has_no_interval_to_compare(tmp_path, capsys):
    six = str(save_linear(tmp_path / "six.onnx", numbers=6))
    assert main.run(["evaluate", six, FACES, "--protocol", "classification", "--against", six]) == 2
    assert "--against: classification has no interval" in capsys.readouterr().err
