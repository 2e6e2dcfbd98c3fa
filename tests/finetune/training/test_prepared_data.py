"""What of a run's data is kept in memory, and by whom."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import ConfigError
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.image_files import decode_image
from rtool.finetune.evaluation.evaluation import evaluate_embeddings, evaluate_pixels
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics
from rtool.finetune.training import prepared_data

SIZE = Preprocessing(8, 4)
IMAGE_GB = 8 * 4 * 3 / 1e9


def prepare(images_in_memory: int):
    """20 training images and 12 held-out ones."""
    config = {
        "model": {"reference": "-"},
        "losses": [{"kind": "arcface"}],
        "data": {
            "train": "synthetic-faces:identities=5,images=4,seed=1,size=16x16",
            "evaluate": "synthetic-faces:identities=3,images=4,seed=2,size=16x16",
            "memory_gb": (images_in_memory + 0.5) * IMAGE_GB,
        },
    }
    return prepared_data.prepare_data(FinetuneConfig.model_validate(config), SIZE)


@pytest.mark.parametrize(
    ("room", "train", "held_out"), [(32, True, True), (31, True, False), (19, False, True), (11, False, False)]
)
def test_both_parts_share_the_memory_and_training_images_come_first(room, train, held_out):
    data = prepare(room)
    assert ((data.train.values is not None), (data.held_out[""].pixels is not None)) == (train, held_out)
    assert (len(data.train.dataset), len(data.held_out[""].dataset)) == (20, 12)


@pytest.fixture
def photographs(tmp_path):
    """Files of 32 x 24 pixels, of five people."""
    for k in range(20):
        path = tmp_path / "photographs" / f"p{k % 5}" / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, (32, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return path.parent.parent


def with_data(**data) -> FinetuneConfig:
    values = {"model": {"reference": "-"}, "losses": [{"kind": "arcface"}], "data": {"holdout": 0.4, **data}}
    return FinetuneConfig.model_validate(values)


def test_reduced_images_are_trained_on_and_whole_ones_measured(photographs):
    exact, reduced = with_data(train=str(photographs)), with_data(train=str(photographs), decode="reduced")
    before, after = (prepared_data.prepare_data(config, SIZE) for config in (exact, reduced))
    expected = [np.asarray(decode_image(path, at_least=(8, 4))) for path in sorted(photographs.rglob("*.jpg"))]
    assert {image.shape for image in expected} == {(8, 6, 3)}
    assert not np.array_equal(before.train.values, after.train.values)
    np.testing.assert_array_equal(before.held_out[""].pixels.values, after.held_out[""].pixels.values)
    assert any("decoded at a reduced scale" in note and note.endswith("at 1/4") for note in after.notes)
    assert before.record.source != after.record.source


def test_reduced_is_refused_before_a_run_where_no_image_is_large_enough(photographs):
    config = with_data(train=str(photographs), decode="reduced")
    with pytest.raises(ConfigError, match=r"data\.decode: reduced does nothing"):
        prepared_data.open_training_data(config, Preprocessing(32, 24))


@pytest.mark.parametrize("other", ["seed=2", "cameras=1", "seed=1,size=16x16"])
def test_other_drawn_pictures_are_other_data_although_their_names_are_the_same(other):
    faces = "synthetic-faces:identities=5,images=4,"
    records = [prepared_data.describe_data(with_data(train=faces + options)) for options in ("seed=1", other)]
    assert records[0].source != records[1].source
    again = prepared_data.describe_data(with_data(train="synthetic-faces:seed=1,images=4,identities=5"))
    assert again == records[0]


def test_only_the_process_that_evaluates_reads_what_it_evaluates_on(monkeypatch):
    monkeypatch.setattr(prepared_data, "rank", lambda: 1)
    data = prepare(100)
    assert data.train.values is not None
    assert data.held_out[""].pixels is None


def test_an_evaluation_is_the_same_from_memory_and_from_a_stream():
    def embed(pixels):
        return pixels.reshape(len(pixels), -1).astype("f4") - 100

    kept = prepare(100).held_out[""]
    streamed = evaluate_embeddings(embed, kept.dataset, resize=kept.resize, batch=5)
    assert streamed == evaluate_pixels(embed, kept.pixels)


def test_a_run_measures_alike_whether_its_images_fit_into_memory(write_recipe):
    recipe = write_recipe()
    kept, streamed = (finetune(recipe, [f"data.memory_gb={size}"], quiet=True) for size in (2, 0))
    assert kept.metrics == streamed.metrics
    losses = [[row["losses"] for row in read_metrics(run.run_dir) if "losses" in row] for run in (kept, streamed)]
    assert losses[0] == losses[1]


def test_streaming_holds_one_batch_of_images_at_a_time():
    held = []

    def embed(pixels):
        held.append(len(pixels))
        return pixels.reshape(len(pixels), -1).astype("f4")

    data = prepare(0).held_out[""]
    evaluate_embeddings(embed, data.dataset, resize=data.resize, batch=5, flip=False)
    assert held == [5, 5, 2]


def test_what_a_reader_left_out_is_reported_once(tmp_path):
    for identity in range(5):
        (tmp_path / f"p{identity}").mkdir()
        for number in range(6):
            Image.new("RGB", (4, 8), (40 * identity, 40 * number, 0)).save(tmp_path / f"p{identity}" / f"{number}.png")
        (tmp_path / f"p{identity}" / "._1.png").write_bytes(b"")
    config = {
        "model": {"reference": "-"},
        "losses": [{"kind": "arcface"}],
        "data": {"train": str(tmp_path), "holdout": 0.4},
    }
    notes = prepared_data.prepare_data(FinetuneConfig.model_validate(config), SIZE).notes
    assert [note.partition(": ")[2][:16] for note in notes] == ["5 images in hidd"]


def test_kept_images_give_the_same_data_and_record(photographs, tmp_path, monkeypatch):
    plain = prepared_data.prepare_data(with_data(train=str(photographs), min_images=4), SIZE)
    config = with_data(train=str(photographs), min_images=4, cache=str(tmp_path / "kept"))
    for said in ("20 images decoded into", "20 decoded images read from"):
        kept = prepared_data.prepare_data(config, SIZE)
        assert any(said in note for note in kept.notes)
        assert (kept.train.values == plain.train.values).all()
        assert (kept.held_out[""].pixels.values == plain.held_out[""].pixels.values).all()
        assert kept.record == plain.record


def test_a_subset_is_of_one_data_set_and_of_all_its_images(photographs, tmp_path):
    positions = tmp_path / "subset.txt"
    positions.write_text(",".join(map(str, range(18))))
    config = with_data(train=str(photographs), subset=str(positions), min_images=3, holdout=0.5)
    data = prepared_data.prepare_data(config, SIZE)
    assert any("18 of 20 images are used" in note for note in data.notes)
    assert len(data.train.dataset) + len(data.held_out[""].dataset) == 16
    several = with_data(
        train={"a": str(photographs), "b": "synthetic-faces:identities=3,images=4"}, subset=str(positions)
    )
    with pytest.raises(ConfigError, match=r"data\.subset: positions are of one labelled data set"):
        prepared_data.prepare_data(several, SIZE)


def test_kept_images_are_whole(tmp_path):
    with pytest.raises(ValueError, match=r"data\.cache: keeps images that are decoded whole"):
        with_data(train="-", cache=str(tmp_path), decode="reduced")


def test_sets_that_are_measured_are_kept_decoded_too(photographs, tmp_path):
    sets = {}
    for name, first in (("lfw", 0), ("agedb_30", 10)):
        images = [path.read_bytes() for path in sorted(photographs.rglob("*.jpg"))[first : first + 10]]
        sets[name] = str(tmp_path / f"{name}.bin")
        Path(sets[name]).write_bytes(pickle.dumps((images, [True, False, True, False, True]), protocol=2))
    changes = {"train": str(photographs), "evaluate": sets}
    values = {"model": {"reference": "-"}, "losses": [{"kind": "arcface"}], "evaluation": {"function": "math:fsum"}}
    plain, kept = (
        prepared_data.prepare_data(FinetuneConfig.model_validate({**values, "data": {**changes, **cache}}), SIZE)
        for cache in ({}, {"cache": str(tmp_path / "kept")})
    )
    for name in sets:
        found = kept.held_out[name].pixels
        assert (found.values == plain.held_out[name].pixels.values).all()
        assert any(note.startswith(f"{sets[name]}: 10 images decoded into") for note in kept.notes)
    assert kept.record == plain.record
