"""What of a run's data is kept in memory, and by whom."""

import pytest
from PIL import Image

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import FinetuneConfig
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
