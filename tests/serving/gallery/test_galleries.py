"""`rtool gallery` through the command: what it writes, twice, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.cli import main
from rtool.finetune.data.formats.sources import open_dataset
from rtool.serving.gallery.files import similarities
from rtool.serving.gallery.people import clustering, similarity

PEOPLE = "synthetic-people:identities=6,images=8,seed=2,cameras=0,views=4,size=64x32"
VARYING = ("timestamp", "timing", "model_calls", "settings")


def run(*words: object, code: int = 0) -> None:
    assert main.run([*map(str, words), "--preprocessing", "raw"]) == code


@pytest.fixture(scope="module")
def made(colours, tmp_path_factory) -> Path:
    """A gallery of 6 drawn people in 24 tracks, with a cache beside it."""
    folder = tmp_path_factory.mktemp("made")
    run("gallery", colours, PEOPLE, "-o", folder / "out", "--cache", folder / "cache", "-q")
    return folder / "out"


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def test_it_writes_the_files_with_the_keys_that_readers_know(made):
    similarity, embeddings = record(made, "similarity_matrix.json"), record(made, "embeddings.json")
    assert similarity.keys() >= {"model_type", "similarity_threshold", "timestamp", "person_ids", "matrix", "order"}
    assert (similarity["model_type"], similarity["similarity_threshold"]) == ("onnx", 0.70)
    assert similarity["threshold_source"] == "default"
    matrix, vectors = np.load(made / "similarity_matrix.npy"), np.load(made / "embeddings.npy")
    people = record(made, "clusters.json")["people"]
    assert matrix.shape == (len(people), len(people))
    assert matrix.dtype == vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(vectors @ vectors.T, matrix, atol=1e-5)
    assert np.allclose(similarity["matrix"], matrix, atol=1e-6)
    assert embeddings["feature_dimension"] == vectors.shape[1] == 96
    assert embeddings["crops_per_person"] == [person["crops"] for person in people]
    pairs = similarity["high_similarity_pairs"]
    assert [value for *_, value in pairs] == sorted((value for *_, value in pairs), reverse=True)
    assert {(a, b) for a, b, _ in pairs} == {tuple(p) for p in np.argwhere(np.triu(matrix, 1) > 0.70)}


def test_people_are_numbered_by_crops_and_hold_every_track_once(made):
    clusters = record(made, "clusters.json")
    counts = [person["crops"] for person in clusters["people"]]
    assert counts == sorted(counts, reverse=True)
    assert [person["id"] for person in clusters["people"]] == list(range(len(counts)))
    tracks = [track for person in clusters["people"] for track in person["tracks"]]
    assert sorted(tracks) == [f"t{n:04d}" for n in range(24)]
    summary = record(made, "summary.json")
    assert (summary["crops"], summary["tracks"], summary["threshold"]["source"]) == (48, 24, "otsu")
    assert {"load", "select", "embed", "similarity", "cluster"} <= summary["timing"].keys()


def test_every_json_states_the_kind_of_model(made):
    names = {path.name for path in made.glob("*.json")}
    assert names == {"clusters.json", "embeddings.json", "similarity_matrix.json", "summary.json"}
    assert all(record(made, name)["model_type"] == "onnx" for name in names)


def test_animations_have_every_frame_for_200_ms(made):
    people = record(made, "clusters.json")["people"]
    files = sorted((made / "webp").iterdir())
    assert [file.name for file in files] == sorted(f"person_{n}.webp" for n in range(min(10, len(people))))
    for file in files:
        frames = people[int(file.stem.removeprefix("person_"))]["crops"]
        with Image.open(file) as image:
            assert (image.size, image.n_frames) == ((256, 256), frames)
            durations = []
            for number in range(frames):
                image.seek(number)
                image.load()
                durations.append(image.info["duration"])
        assert durations == [200] * frames


def test_pseudo_labels_are_read_as_a_data_set(made):
    with (made / "pseudo.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"path", "identity", "camera"}
    dataset = open_dataset(made / "pseudo.csv")
    assert (len(dataset), dataset.camera_count) == (48, 4)
    drawn = open_dataset(PEOPLE)
    assert np.array_equal(np.asarray(dataset.images[0]), np.asarray(drawn.images[0]))


def test_a_second_run_embeds_nothing_and_writes_the_same_bytes(made, colours, capsys):
    again = made.parent / "again"
    run("gallery", colours, PEOPLE, "-o", again, "--cache", made.parent / "cache", "--json")
    assert json.loads(capsys.readouterr().out)["crops_embedded"] == 0
    files = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    for name in files:
        one, other = (made / name).read_bytes(), (again / name).read_bytes()
        if name.suffix == ".json":
            one, other = (
                json.dumps({key: value for key, value in json.loads(text).items() if key not in VARYING})
                for text in (one, other)
            )
        assert one == other, name


def test_above_the_limit_the_same_people_are_found_and_hdbscan_is_refused(made, colours, monkeypatch, capsys):
    monkeypatch.setattr(similarity, "_TILE", 5)
    for module in (clustering, similarities):
        monkeypatch.setattr(module, "MOST_WHOLE", 5)
    many = made.parent / "many"
    run("gallery", colours, PEOPLE, "-o", many, "--cache", made.parent / "cache", "-q")
    people, expected = (record(folder, "clusters.json")["people"] for folder in (many, made))
    assert [person["tracks"] for person in people] == [person["tracks"] for person in expected]
    assert np.allclose(np.load(many / "similarity_matrix.npy"), np.load(made / "similarity_matrix.npy"), atol=1e-6)
    matrix = record(many, "similarity_matrix.json")
    assert len(people) > 5
    assert (matrix["high_similarity_pairs_of_each"], len(matrix["high_similarity_pairs"])) == (
        50,
        len(record(made, "similarity_matrix.json")["high_similarity_pairs"]),
    )
    run("gallery", colours, PEOPLE, "-o", made.parent / "none", "--cluster", "hdbscan", code=2)
    assert "24 tracks, and takes 5 at most; take dbscan" in capsys.readouterr().err
    assert not (made.parent / "none").exists()


def test_folders_are_those_of_the_user(made):
    assert {path.stat().st_mode & 0o111 for path in made.rglob("*") if path.is_dir()} != {0}
    assert all(path.stat().st_mode & 0o500 == 0o500 for path in made.rglob("*") if path.is_dir())


def test_an_output_is_replaced_only_when_asked_and_only_a_gallery(made, colours, tmp_path, capsys):
    run("gallery", colours, PEOPLE, "-o", made, code=2)
    assert "already exists; choose another folder with -o, or pass --overwrite" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    run("gallery", colours, PEOPLE, "-o", tmp_path / "mine", "--overwrite", code=2)
    assert "holds no gallery" in capsys.readouterr().err
    assert (tmp_path / "mine" / "letter.txt").read_text() == "mine"


def test_a_config_file_states_what_the_command_line_does_not(colours, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("models_dir", str(colours.parent))
    config = tmp_path / "gallery.yaml"
    config.write_text(
        "gallery:\n  model: ${models_dir}/colours.onnx\n  crops: " + PEOPLE + f"\n  output: {tmp_path / 'out'}\n"
        "  best_crops: 3\n  people: 2\n  threshold: 0.5\n"
    )
    run("gallery", "--config", config, "--people", 1, "--json")
    result = json.loads(capsys.readouterr().out)
    assert (result["threshold"], result["threshold_source"]) == (0.5, "given")
    assert [path.name for path in (tmp_path / "out" / "webp").iterdir()] == ["person_0.webp"]
    config.write_text("gallery:\n  thresholds: 0.5\n")
    run("gallery", "--config", config, code=2)
    assert "gallery.thresholds: unknown key; did you mean threshold?" in capsys.readouterr().err
    config.write_text("gallery:\n  model: ${no_such_variable}/m.onnx\n")
    run("gallery", "--config", config, code=2)
    assert "the environment variable no_such_variable is not set" in capsys.readouterr().err
    config.write_text("gallery:\n  threshold: high\n")
    run("gallery", "--config", config, code=2)
    assert "gallery.threshold: expected float or auto, got 'high'" in capsys.readouterr().err
