"""What the options of `rtool gallery` change, through the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.cli import main
from rtool.serving.gallery.finding import _means

RED, BLUE, GREEN = (200, 40, 30), (30, 60, 200), (40, 180, 60)


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """A manifest of one camera: red a and c, who overlap, red b, and d, who is green for four frames, then blue."""
    root = tmp_path_factory.mktemp("crops")
    draw = np.random.default_rng(0)
    lines = ["path,track,camera,frame"]
    shown = {"a": (0, [RED] * 6), "b": (100, [RED] * 6), "c": (3, [RED] * 6), "d": (200, [GREEN] * 4 + [BLUE] * 4)}
    for track, (first, colours) in shown.items():
        for number, colour in enumerate(colours):
            pixels = np.clip(np.array(colour) + draw.normal(0, 6, (64, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"{track}{number}.png")
            lines.append(f"{track}{number}.png,{track},door,{first + number}")
    (root / "crops.csv").write_text("\n".join(lines))
    (root / "labels.csv").write_text("track,identity\na,anna\nb,anna\nc,carl\nd,dora\n")
    return root / "crops.csv"


def found(colours: Path, crops: Path, out: Path, *options: object) -> tuple[set[frozenset[str]], dict, dict]:
    """Tracks by person, clusters.json and summary.json."""
    words = ["gallery", colours, crops, "-o", out, "--preprocessing", "raw", "--centre", "none", "-q", *options]
    assert main.run([*map(str, words)]) == 0
    clusters, summary = (json.loads((out / f"{name}.json").read_text()) for name in ("clusters", "summary"))
    return {frozenset(person["tracks"]) for person in clusters["people"]}, clusters, summary


def test_tracks_that_overlap_in_time_are_two_people_unless_told_otherwise(colours, crops, tmp_path):
    parted, _, summary = found(colours, crops, tmp_path / "time", "--threshold", 0.9)
    assert summary["cannot_link_pairs"] == 1
    assert not any({"a", "c"} <= person for person in parted)
    assert any("b" in person and len(person) == 2 for person in parted)
    joined, _, _ = found(colours, crops, tmp_path / "none", "--threshold", 0.9, "--cannot-link", "none")
    assert frozenset("abc") in joined


def test_a_track_of_two_people_is_flagged_and_cut_where_it_changes(colours, crops, tmp_path):
    _, clusters, _ = found(colours, crops, tmp_path / "flag", "--threshold", 0.9)
    assert [suspect["track"] for suspect in clusters["split_suspects"]] == ["d"]
    parted, clusters, _ = found(colours, crops, tmp_path / "cut", "--threshold", 0.9, "--split")
    assert {frozenset({"d#1"}), frozenset({"d#2"})} <= parted
    spans = {person["tracks"][0]: (person["first_frame"], person["last_frame"]) for person in clusters["people"]}
    assert (spans["d#1"], spans["d#2"]) == ((200, 203), (204, 207))
    assert clusters["split_suspects"] == []


def test_labels_measure_and_change_nothing(colours, crops, tmp_path):
    plain, one, summary = found(colours, crops, tmp_path / "plain", "--threshold", 0.9)
    assert summary["agreement"] is None
    labels = crops.with_name("labels.csv")
    measured, other, summary = found(colours, crops, tmp_path / "labels", "--threshold", 0.9, "--labels", labels)
    assert (measured, one) == (plain, other)
    quality = summary["agreement"]
    assert quality["people_true"] == 3
    # ab and the rest alone: one pair found, one pair true; or bc, which is wrong
    assert quality["pair_f"] == (1.0 if frozenset("ab") in plain else 0.0)


def test_mean_of_pairs_is_the_mean_cosine_of_all_pairs_of_crops(colours, crops, tmp_path):
    draw = np.random.default_rng(0)
    unit = draw.normal(size=(7, 5)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    owner = np.array([0, 0, 0, 1, 1, 2, 2])
    expected = [[(unit[owner == a] @ unit[owner == b].T).mean() for b in range(3)] for a in range(3)]
    means = _means(unit, owner, 3)
    assert np.allclose(means @ means.T, expected, atol=1e-6)
    options = ("--cluster", "none", "--similarity", "mean-of-pairs", "--threshold", 0.9)
    _, clusters, _ = found(colours, crops, tmp_path / "pairs", *options)
    assert len(clusters["people"]) == 4
    assert json.loads((tmp_path / "pairs" / "similarity_matrix.json").read_text())["order"] == "track"


@pytest.mark.parametrize("method", ["components", "dbscan", "hdbscan"])
def test_every_method_runs_and_lists_its_outliers(colours, crops, tmp_path, method):
    people, clusters, _ = found(colours, crops, tmp_path / method, "--cluster", method, "--eps", 0.7)
    assert set().union(*people) == set("abcd")
    assert set(clusters["outliers"]) <= set("abcd")
    rows = (tmp_path / method / "pseudo.csv").read_text().splitlines()[1:]
    named = {Path(row.split(",")[0]).stem[0] for row in rows}
    assert named == set("abcd") - set(clusters["outliers"])


def test_onnx_models_need_no_torch(colours, crops, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rtool.cli import main\n"
        f"raise SystemExit(main.run(['gallery', {str(colours)!r}, {str(crops)!r}, '-o', {str(tmp_path / 'out')!r}, "
        "'--preprocessing', 'raw', '-q']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "person_selection.html").is_file()
