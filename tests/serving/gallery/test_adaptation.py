"""`rtool adapt`: rounds of clustering and training, continued where they stopped."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli import main
from rtool.serving.gallery import adaptation
from rtool.serving.gallery.adaptation import adapt
from rtool.serving.gallery.settings import GallerySettings

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,cameras=0,views=4,size=64x32"
HELD_OUT = "synthetic-people:identities=4,images=8,seed=3,cameras=0,views=4,size=64x32"
TRAINING = ("model.preprocessing=raw", "model.restore_bn=false", "epochs=1", "data.batch=16", "threads=1")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Images [N, 3, 64, 32] to embeddings [N, 128]: one convolution over cells of 16 x 16 pixels."""
    draw = np.random.default_rng(0)
    weight = draw.normal(0, 0.003, (16, 3, 16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "weight", "bias"], ["map"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("Flatten", ["active"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 64, 32])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 128])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.full(16, 0.05, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("network") / "cells.onnx"
    onnx.save(model, path)
    return path


SETTINGS = GallerySettings(cluster="dbscan", preprocessing="raw", eps=0.6, people=0)


def run(network: Path, folder: Path, **options: object) -> adaptation.AdaptResult:
    lines: list[str] = []
    options = {"rounds": 1, "evaluate": None, "seed": 0, "settings": SETTINGS, "report": lines.append} | options
    result = adapt(network, PEOPLE, folder, overrides=TRAINING, **options)
    run.lines = lines
    return result


def test_a_round_clusters_trains_from_the_source_and_clusters_again(network, tmp_path):
    result = run(network, tmp_path / "out")
    state = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert [item["number"] for item in state["rounds"]] == [0, 1]
    assert state["rounds"][1]["model"] == str(next((tmp_path / "out/round-1/training/adapt").iterdir()))
    config = (Path(result.rounds[1].model) / "config.yaml").read_text()
    assert f"reference: {network}" in config
    assert "round-0/gallery/pseudo.csv" in config
    assert "Adaptation without labels" in result.report.read_text()
    for number in (0, 1):
        clusters = json.loads((tmp_path / f"out/round-{number}/gallery/clusters.json").read_text())
        assert clusters["method"] == "dbscan"
    # again: nothing is trained, nothing clustered
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("round-*/*/*")}
    again = run(network, tmp_path / "out")
    assert again.rounds == result.rounds
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("round-*/*/*")} == before
    assert not [line for line in run.lines if "fine-tuning" in line or "finding" in line]
    # another seed is another adaptation
    with pytest.raises(adaptation.InputError, match="was begun with another seed"):
        run(network, tmp_path / "out", seed=1)


def test_a_stop_between_training_and_clustering_is_continued(network, tmp_path, monkeypatch):
    calls = []
    gallery = adaptation.gallery

    def interrupted(*words, **options):
        calls.append(words[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return gallery(*words, **options)

    monkeypatch.setattr(adaptation, "gallery", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(network, tmp_path / "out")
    trained = list((tmp_path / "out/round-1/training/adapt").iterdir())
    result = run(network, tmp_path / "out")
    assert [str(path) for path in trained] == [result.rounds[1].model]
    assert calls == [tmp_path / "out/round-0/gallery", *2 * [tmp_path / "out/round-1/gallery"]]


def rounds_of(monkeypatch: pytest.MonkeyPatch, cohesion: list[float], change: list[float | None]) -> None:
    def measured(loop: object, number: int, model: str, before: object) -> adaptation.Round:
        return adaptation.Round(number, model, 5, 0, cohesion[number], change[number], None, None, None)

    monkeypatch.setattr(adaptation._Loop, "_measured", measured)
    monkeypatch.setattr(adaptation._Loop, "_trained", lambda loop, number: Path(f"model-{number}"))


@pytest.mark.parametrize(
    ("cohesion", "change", "best", "count", "why"),
    [
        ([0.5, 0.6, 0.55, 0.9], [None, 0.3, 0.2, 0.2], 1, 3, "cohesion fell in round 2"),
        ([0.5, 0.6, 0.7, 0.9], [None, 0.3, 0.019, 0.2], 2, 3, "the people changed by 1.9% in round 2"),
        ([0.5, 0.4, 0.7, 0.9], [None, 0.3, 0.2, 0.2], 0, 2, "cohesion fell in round 1"),
        ([0.5, 0.6, 0.7, 0.9], [None, 0.3, 0.2, 0.2], 3, 4, "every round asked for was made"),
    ],
)
def test_rounds_stop_when_they_no_longer_help(network, tmp_path, monkeypatch, cohesion, change, best, count, why):
    rounds_of(monkeypatch, cohesion, change)
    result = run(network, tmp_path / "out", rounds=3)
    assert (result.best_round, len(result.rounds)) == (best, count)
    assert result.model == (f"model-{best}" if best else str(network))
    assert why in result.stopped


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["triton://127.0.0.1:1/m", PEOPLE], "a served model cannot be trained"),
        (["osnet_x0_25", PEOPLE], "has random weights, which find no people; give --weights"),
        (["MODEL", PEOPLE, "epochs=none"], "epochs"),
        (["MODEL", "no/such/folder"], "no such file or folder; expected crops"),
    ],
)
def test_what_cannot_be_adapted_is_refused_by_the_command(network, tmp_path, capsys, words, said):
    words = [str(network) if word == "MODEL" else word for word in words]
    assert main.run(["adapt", *words, "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_of_other_things_is_left_alone(network, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("mine")
    assert main.run(["adapt", str(network), PEOPLE, "-o", str(tmp_path)]) == 2
    assert "is not empty and holds no adaptation" in capsys.readouterr().err


@pytest.mark.slow
def test_adaptation_raises_map_on_other_people_of_the_target_cameras(tmp_path):
    """About half the people of `make bench-gallery`, one round; a minute or two."""
    source = adaptation._RECIPE.parent / "models" / "osnet_x0_25_synthetic.onnx"
    result = adapt(
        source,
        "synthetic-people:identities=80,images=12,seed=11,cameras=1",
        tmp_path / "out",
        rounds=1,
        evaluate="synthetic-people:identities=60,images=12,seed=12,cameras=1",
    )
    before, after = (item.mean_average_precision for item in result.rounds)
    assert before == pytest.approx(0.3212, abs=0.002)
    assert after > before + 0.10
