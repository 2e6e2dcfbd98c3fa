"""Bad input, each through the command: one message with the way out, exit code 2, and no folder left behind."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from rtool.cli import main
from rtool.serving.gallery.files import pictures

PEOPLE = "synthetic-people:identities=4,images=4,seed=2,cameras=0,views=2,size=64x32"


def refused(capsys, folder: Path, *words: object, code: int = 2) -> str:
    assert main.run(["gallery", *map(str, words), "--preprocessing", "raw"]) == code
    assert not [path for path in folder.parent.iterdir() if folder.name in path.name], "a folder was left behind"
    return capsys.readouterr().err


def crops(root: Path, tracks: int = 3, each: int = 2) -> Path:
    draw = np.random.default_rng(0)
    for track in range(tracks):
        (root / f"t{track}").mkdir(parents=True)
        for number in range(each):
            pixels = draw.integers(0, 255, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"t{track}" / f"{number}.{'jpg' if track else 'png'}")
    return root


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "places" / "out"


@pytest.fixture(autouse=True)
def parent(out):
    out.parent.mkdir()


def test_no_images_one_track_and_an_empty_track(colours, out, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no images; expected TRACK/image.jpg" in refused(capsys, out, colours, tmp_path / "empty", "-o", out)
    root = crops(tmp_path / "one", 1)
    assert "1 track; a gallery compares two or more" in refused(capsys, out, colours, root, "-o", out)
    (root / "t9").mkdir()
    assert "t9: a track without an image" in refused(capsys, out, colours, root, "-o", out)


def test_unreadable_images_are_named_or_refused(colours, out, tmp_path, capsys):
    root = crops(tmp_path / "crops", 3, 40)
    (root / "t0" / "bad.png").write_bytes(b"no image")
    words = ["gallery", str(colours), str(root), "-o", str(out), "--preprocessing", "raw", "--json"]
    assert main.run(words) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("1 unreadable images left out: t0/bad.png" in warning for warning in warnings)
    (root / "t0" / "worse.png").write_bytes(b"no image")
    said = refused(capsys, out.with_name("second"), colours, root, "-o", out.with_name("second"))
    assert "2 of 122 images cannot be read" in said


def test_embeddings_that_are_not_finite(colours, out, tmp_path, capsys):
    model = onnx.load(colours)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(96, np.nan, np.float32), "bias"))
    onnx.save(model, tmp_path / "nan.onnx")
    said = refused(capsys, out, tmp_path / "nan.onnx", PEOPLE, "-o", out)
    assert "NaN or infinity" in said


def test_a_model_that_gives_one_embedding_to_everybody(colours, out, tmp_path, capsys):
    model = onnx.load(colours)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(96, np.float32), "nothing"))
    model.graph.node[2].input[0] = "lost"
    model.graph.node.insert(2, onnx.helper.make_node("Mul", ["flat", "nothing"], ["lost"]))
    onnx.save(model, tmp_path / "lost.onnx")
    said = refused(capsys, out, tmp_path / "lost.onnx", PEOPLE, "-o", out)
    assert "gives one embedding to every crop, and to 8 random images" in said


def test_embeddings_of_zeros_are_counted(colours, out, tmp_path, capsys):
    model = onnx.load(colours)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros(96, np.float32), "bias"))
    onnx.save(model, tmp_path / "dark.onnx")
    root = crops(tmp_path / "crops")
    for number in range(2):
        Image.new("RGB", (16, 32)).save(root / "t0" / f"{number}.png")
    words = ["gallery", tmp_path / "dark.onnx", root, "-o", out, "--preprocessing", "raw", "--json"]
    assert main.run([*map(str, words)]) == 0
    assert "2 of 6 crops have an embedding of zeros" in "".join(json.loads(capsys.readouterr().out)["warnings"])


def test_the_output_inside_the_crops_and_the_cache_inside_the_output(colours, out, tmp_path, capsys):
    root = crops(tmp_path / "crops")
    said = refused(capsys, root / "out", colours, root, "-o", root / "out")
    assert "lies inside the crops" in said
    (tmp_path / "t.txt").write_text("1,1,0,0,9,9\n")
    words = ["--tracks", tmp_path / "t.txt", "--frames", root]
    assert "lies inside the frames" in refused(capsys, root / "out", colours, *words, "-o", root / "out")
    assert "cache: lies inside" in refused(capsys, out, colours, root, "-o", out, "--cache", out / "cache")


def test_overwriting_deletes_nothing_but_a_gallery(colours, out, capsys):
    words = ["gallery", str(colours), PEOPLE, "-o", str(out), "--preprocessing", "raw"]
    assert main.run(words) == 0
    (out / "edits.json").write_text("mine")
    assert main.run([*words, "--overwrite"]) == 0
    assert (out / "edits.json").read_text() == "mine"
    for name in ("notes.txt", "crops.onnx"):
        (out / name).write_text("mine")
        assert main.run([*words, "--overwrite"]) == 2
        assert f"holds what no gallery writes, such as {name}" in capsys.readouterr().err
        (out / name).unlink()
    crops(out / "crops")
    assert main.run(["gallery", str(colours), str(out / "crops"), "-o", str(out), "--overwrite"]) == 2
    assert "lies inside" in capsys.readouterr().err
    assert (out / "crops" / "t0" / "0.png").is_file()


def test_a_full_disk_leaves_nothing(colours, out, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "animated", full)
    assert "cannot be written (No space left on device); nothing was left behind" in refused(
        capsys, out, colours, PEOPLE, "-o", out
    )


def test_mixed_layouts_and_things_that_do_not_exist(colours, out, tmp_path, capsys):
    root = crops(tmp_path / "crops")
    (root / "cam" / "t7").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "cam" / "t7" / "1.png")
    assert "6 images lie as TRACK/image.jpg and 1 do not" in refused(capsys, out, colours, root, "-o", out)
    assert "no such file or folder; expected crops in TRACK/" in refused(capsys, out, colours, "nowhere", "-o", out)
    assert "nowhere.onnx: no such file" in refused(capsys, out, "nowhere.onnx", PEOPLE, "-o", out)
    assert "MODEL is missing" in refused(capsys, out, "-o", out)
    (tmp_path / "t.txt").write_text("1,1,0,0,9,9\n")
    assert "a tracker's text needs --frames" in refused(capsys, out, colours, tmp_path / "t.txt", "-o", out)


def test_edits_of_another_gallery_of_unknown_tracks_and_contradictions(colours, out, tmp_path, capsys):
    made = tmp_path / "made"
    words = ["gallery", str(colours), PEOPLE, "-o", str(made), "--preprocessing", "raw", "-q"]
    assert main.run(words) == 0
    digest = hashlib.sha256((made / "clusters.json").read_bytes()).hexdigest()
    edits = made / "edits.json"

    def said(**record: object) -> str:
        edits.write_text(json.dumps({"schema": 1, "source_sha256": digest} | record))
        return refused(capsys, out, colours, PEOPLE, "-o", out, "--edits", edits)

    assert "was made on another gallery" in said(source_sha256="0" * 64)
    assert "track 'nobody' is not in these crops" in said(merge=[["t0000", "nobody"]])
    both = {"merge": [["t0000", "t0001"]], "split": [{"from": 0, "tracks": ["t0000"], "rest": ["t0001"]}]}
    assert "track 't0000' is split from 't0001' and merged with it" in said(**both)
    assert "expected merge [[track, ...]]" in said(merge=["t0000"])
    assert "there is no person '99'; the gallery has 8, from 0" in said(names={"99": "Ann"})
    assert "there is no person inf" in said(split=[{"from": float("inf"), "tracks": ["t0000"]}])
    for threshold in (float("nan"), 7, True, "x"):
        assert "a threshold is a cosine from -1 to 1" in said(threshold=threshold)
    assert "unknown key 'merg'; did you mean merge?" in said(merg=[])
    edits.write_text("{")
    assert "is no JSON" in refused(capsys, out, colours, PEOPLE, "-o", out, "--edits", edits)
    for content in (b"{}", b"\xff", b'{"people": [{"id": "a", "tracks": 3}]}'):
        (made / "clusters.json").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        assert "was made on a clusters.json that rtool did not write" in said()
    assert "edits.json: no such file" in refused(capsys, out, colours, PEOPLE, "-o", out, "--edits", out / "edits.json")


def test_models_are_tried_in_their_order_and_random_weights_are_never_silent(colours, out, tmp_path, capsys):
    people = "synthetic-people:identities=2,images=4,seed=2,cameras=0,views=2,size=64x32"
    said = refused(capsys, out, "none.onnx", people, "-o", out, "--fallback", "osnet_x0_25")
    assert "no model could be loaded:" in said
    assert "none.onnx (onnx, cpu): none.onnx: no such file" in said
    assert "osnet_x0_25 (random, cpu): has random weights; give --weights FILE.pth, or --allow-random" in said
    words = [
        "gallery",
        "none.onnx",
        people,
        "-o",
        str(out),
        "--fallback",
        str(colours),
        "--preprocessing",
        "raw",
        "--json",
    ]
    assert main.run(words) == 0
    result = capsys.readouterr()
    assert json.loads(result.out)["model_type"] == "onnx"
    assert "none.onnx (onnx, cpu)" in result.err
    random = out.with_name("random")
    words = ["gallery", "osnet_x0_25", people, "-o", str(random), "--allow-random", "--json"]
    assert main.run([*words, "--preprocessing", "imagenet"]) == 0
    assert "the weights are random" in capsys.readouterr().err
    for name in ("clusters", "embeddings", "similarity_matrix", "summary"):
        assert json.loads((random / f"{name}.json").read_text())["model_type"] == "random"
    assert 'class="random"' in (random / "person_selection.html").read_text()
    assert np.load(random / "embeddings.npy").shape[1] == 512


def test_weights_that_go_nowhere_are_refused(colours, out, capsys):
    said = refused(capsys, out, colours, PEOPLE, "-o", out, "--weights", "w.pth")
    assert "--weights w.pth: are loaded into a zoo name" in said


def test_a_fixed_batch_gives_the_embeddings_of_single_images(colours, out, tmp_path):
    model = onnx.load(colours)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 16
    onnx.save(model, tmp_path / "fixed.onnx")
    found = []
    for number, path in enumerate((colours, tmp_path / "fixed.onnx")):
        words = ["gallery", path, PEOPLE, "-o", out.with_name(f"o{number}"), "--preprocessing", "raw", "-q"]
        assert main.run([*map(str, words)]) == 0
        found.append(np.load(out.with_name(f"o{number}") / "embeddings.npy"))
    assert np.allclose(found[0], found[1], atol=1e-6)


def test_evaluate_says_that_weights_are_random(capsys):
    assert main.run(["evaluate", "osnet_x0_25", PEOPLE, "--json"]) == 0
    assert "osnet_x0_25 has random weights" in capsys.readouterr().err
