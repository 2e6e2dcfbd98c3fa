"""The page: its logic beside the command's, and driven in Chromium as a person would."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.cli import main
from rtool.serving.gallery.files import page
from rtool.serving.gallery.people.agglomerative import average_linkage, cut
from rtool.serving.gallery.people.edits import Edits, Split, apply_edits

LOGIC = Path(page.__file__).with_name("logic.js")
HOSTILE = "<img src=x onerror=alert(1)>"
NODE = shutil.which("node")


def random_case(seed: int) -> dict:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(4, 30))
    vectors = draw.normal(size=(count, 5)) + 2 * draw.normal(size=(6, 5))[draw.integers(0, 6, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.sort(draw.integers(0, count, (3, 2)), axis=1)
    apart = apart[apart[:, 0] < apart[:, 1]]
    tree = average_linkage(vectors.astype(np.float32), apart)
    threshold = float(draw.uniform(-0.2, 0.9))
    chosen = draw.permutation(count).tolist()
    edits = {"split": [{"tracks": chosen[:1], "rest": chosen[1:3]}], "merge": [chosen[3:5]], "drop": chosen[5:6]}
    groups = cut(tree, threshold)
    labels = [str(n) for n in range(count)]
    own = Edits(
        Path("edits.json"),
        tuple(tuple(map(str, group)) for group in edits["merge"]),
        (Split(tuple(map(str, chosen[:1])), tuple(map(str, chosen[1:3]))),),
        tuple(map(str, edits["drop"])),
        (),
        None,
    )
    try:
        after = apply_edits(groups, own, labels)[0].tolist()
    except Exception:
        after = None  # a contradiction, which the page never makes
    return {
        "count": count,
        "merges": [
            list(m) for m in zip(tree.first.tolist(), tree.second.tolist(), tree.similarity.tolist(), strict=True)
        ],
        "threshold": threshold,
        "edits": edits,
        "groups": groups.tolist(),
        "after": after,
    }


@pytest.mark.skipif(NODE is None, reason="runs the page's script outside of a browser with node, which is not here")
def test_the_page_clusters_and_edits_as_the_command_does(tmp_path):
    cases = [random_case(seed) for seed in range(200)]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "run.js").write_text(
        f"const logic = require({json.dumps(str(LOGIC))});\n"
        f"const cases = JSON.parse(require('fs').readFileSync({json.dumps(str(tmp_path / 'cases.json'))}));\n"
        "console.log(JSON.stringify(cases.map((c) => { const groups = logic.cutTree(c.count, c.merges, c.threshold);\n"
        "return [groups, logic.applyEdits(groups, c.edits)]; })));\n"
    )
    done = subprocess.run([NODE, tmp_path / "run.js"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [groups for groups, _ in found] == [case["groups"] for case in cases]
    assert sum(case["after"] is not None for case in cases) > 100
    assert all(after == case["after"] for (_, after), case in zip(found, cases, strict=True) if case["after"])


@pytest.fixture(scope="module")
def gallery(colours, tmp_path_factory) -> Path:
    """Four people in two tracks each, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("page")
    draw = np.random.default_rng(0)
    looks = draw.integers(20, 235, (4, 3))
    for number in range(8):
        name = HOSTILE if number == 7 else f"t{number}"
        place = folder / "crops" / f"cam{number % 2}" / name
        place.mkdir(parents=True)
        for frame in range(3):
            pixels = np.clip(looks[number // 2] + draw.normal(0, 8, (128, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{frame}.png")
    words = [colours, folder / "crops", "-o", folder / "out", "--preprocessing", "raw", "--threshold", "0.98", "-q"]
    assert main.run(["gallery", *map(str, words), "--centre", "none"]) == 0
    return folder / "out"


def test_a_hostile_name_is_text_and_the_policy_lets_only_the_pages_own_script_run(gallery):
    text = (gallery / "person_selection.html").read_text()
    assert HOSTILE not in text
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert any(HOSTILE in person["tracks"] for person in json.loads((gallery / "clusters.json").read_text())["people"])


@pytest.mark.slow
def test_people_are_merged_split_dropped_named_and_saved_by_keyboard(gallery, browser, colours, tmp_path):
    browser.open(gallery / "person_selection.html")
    people = "JSON.stringify(rtoolGallery.people().map((p) => p.tracks))"
    start = json.loads(browser.run(people))
    source = json.loads((gallery / "clusters.json").read_text())["people"]
    labels = json.loads(browser.run("JSON.stringify(rtoolGallery.data.tracks.map((t) => t.label))"))
    assert [[labels[t] for t in own] for own in start] == [person["tracks"] for person in source]
    assert browser.run("document.querySelectorAll('.card').length") == len(start)
    assert browser.run("document.querySelectorAll('#people img, #people script').length") == 0

    browser.run("document.querySelector('.who').focus()")
    browser.press(" ", "l", " ", "m")
    merged = json.loads(browser.run(people))
    assert len(merged) == len(start) - 1
    assert sorted(start[0] + start[1]) in [sorted(own) for own in merged]
    browser.press("u")
    assert json.loads(browser.run(people)) == start
    browser.press("r")
    assert json.loads(browser.run(people)) == merged

    browser.run("document.querySelector('.who').focus()")
    browser.press("Enter", " ", "s")
    parted = json.loads(browser.run(people))
    assert len(parted) == len(start)
    browser.run("document.querySelector('.who').focus()")
    browser.press("n", "r", "e", "d", "Enter")
    assert browser.run("document.querySelector('.who').textContent") == "red"
    browser.run("[...document.querySelectorAll('.who')].pop().click()")
    browser.press("x")
    final = json.loads(browser.run(people))
    assert len(final) == len(parted) - 1
    assert browser.errors == []

    (tmp_path / "edits.json").write_text(browser.run("JSON.stringify(rtoolGallery.record())"))
    crops = gallery.parent / "crops"
    words = [
        colours,
        crops,
        "-o",
        tmp_path / "out",
        "--preprocessing",
        "raw",
        "--threshold",
        "0.98",
        "--centre",
        "none",
    ]
    shutil.copy(gallery / "clusters.json", tmp_path / "clusters.json")
    assert main.run(["gallery", *map(str, words), "--edits", str(tmp_path / "edits.json"), "-q"]) == 0
    clusters = json.loads((tmp_path / "out" / "clusters.json").read_text())
    assert [person["tracks"] for person in clusters["people"]] == [[labels[t] for t in own] for own in final]
    assert clusters["people"][0]["name"] == "red"
    assert len(clusters["dropped"]) == 8 - sum(map(len, final))


@pytest.mark.slow
def test_the_slider_cuts_the_tree_and_nothing_is_loaded(gallery, browser):
    browser.open(gallery / "person_selection.html", width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    move = "(v) => { const s = document.getElementById('threshold'); s.value = v; s.dispatchEvent(new Event('input')); "
    move += "return rtoolGallery.people().length; }"
    assert browser.run(f"({move})(1000)") == 8
    least = browser.run("+document.getElementById('threshold').min")
    assert browser.run(f"({move})({least})") == 1
    assert [url for url in browser.requests if not url.startswith(("data:", "file:", "blob:null"))] == []
    browser.press("?")
    assert browser.run("document.getElementById('help-box').open") is True
    assert browser.errors == []
