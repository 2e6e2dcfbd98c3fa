"""A resumed run is compared with the data that it was trained and measured on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rtool.errors import ConfigError
from rtool.finetune.config.files import load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.data_record import load_data_record
from rtool.finetune.runs.resuming import opened_run
from rtool.finetune.training.prepared_data import describe_data

from .recorded_runs import files_of, run_of


@pytest.fixture(scope="module")
def trained_on_folders(tmp_path_factory, tiny) -> Path:
    """A configuration file whose one run has done an epoch on folders of people, some of them held out."""
    folder = tmp_path_factory.mktemp("folders")
    draw_people(folder / "people", 6)
    path = folder / "tiny.yaml"
    data = {**tiny["data"], "train": str(folder / "people"), "evaluate": None, "holdout": 0.4}
    path.write_text(yaml.safe_dump({**tiny, "data": data, "threads": 1, "output": str(folder / "runs")}))
    finetune(path, quiet=True)
    return path


def draw_people(root: Path, count: int, first: int = 0) -> None:
    for person in range(first, first + count):
        (root / f"id{person:02d}").mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng([person, number]).integers(0, 256, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"id{person:02d}" / f"{number}.png")


@pytest.fixture
def on_folders(trained_on_folders, tmp_path) -> Path:
    """The same in a folder of the test's own, where the people may be renamed."""
    for name in ("runs", "people"):
        shutil.copytree(trained_on_folders.parent / name, tmp_path / name, symlinks=True)
    path = tmp_path / "tiny.yaml"
    settings = yaml.safe_load(trained_on_folders.read_text())
    settings["data"]["train"] = "people"
    path.write_text(yaml.safe_dump({**settings, "output": str(tmp_path / "runs")}))
    return path


def resume(recipe: Path, *changes: str, accept: tuple[str, ...] = ()):
    run = run_of(recipe)
    config = load_config(recipe, ["epochs=2", f"data.train={recipe.parent / 'people'}", *changes])
    with opened_run(config, run, describe_data, accept) as found:
        return found


def test_a_run_goes_on_with_the_same_people_wherever_they_lie(on_folders):
    (on_folders.parent / "people").rename(on_folders.parent / "moved")
    assert resume(on_folders, f"data.train={on_folders.parent / 'moved'}")[1] is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=5", r"^seed: .* was trained with 0, got 5.*--resume-with seed"),
        ("evaluation.flip=false", r"^evaluation: .* in another way.*--resume-with evaluation"),
        ("data.holdout=0.34", r"^data: the training images of .*, or data.holdout, have changed.*--resume-with data"),
    ],
)
def test_a_change_of_what_decides_the_data_is_refused_by_name(on_folders, change, message):
    before = files_of(run_of(on_folders))
    with pytest.raises(ConfigError, match=message):
        resume(on_folders, change)
    assert files_of(run_of(on_folders)) == before
    name = message.partition(":")[0][1:]
    assert resume(on_folders, change, accept=(name,))[1] is not None


def test_people_that_were_trained_on_and_would_be_held_out_are_named(on_folders):
    held_out = load_data_record(run_of(on_folders) / "checkpoints" / "last.rtool").held_out
    people = f"data.train={on_folders.parent / 'people'}"
    seed = next(
        seed
        for seed in range(1, 9)
        if describe_data(load_config(on_folders, [f"seed={seed}", people])).held_out != held_out
    )
    with pytest.raises(ConfigError, match=r"identities that were trained on would be held out \(id0\d/0.png"):
        resume(on_folders, f"seed={seed}")


def test_a_renamed_identity_shifts_the_classes_and_is_refused(on_folders):
    people = on_folders.parent / "people"
    (people / "id00").rename(people / "zz00")
    with pytest.raises(ConfigError, match=r"^data: .*--resume-with data"):
        resume(on_folders)


def test_people_that_changed_their_folders_are_refused_under_the_same_names(on_folders):
    people = on_folders.parent / "people"
    for old, new in (("id00", "x"), ("id01", "id00"), ("x", "id01")):
        (people / old).rename(people / new)
    with pytest.raises(ConfigError, match=r"^data: training images of .* have other content under the same names"):
        resume(on_folders)
    resume(on_folders, accept=("data",))


def test_a_checkpoint_without_a_digest_of_contents_is_compared_by_its_labels(on_folders):
    record = run_of(on_folders) / "checkpoints" / "last.rtool" / "data.json"
    values = {k: v for k, v in json.loads(record.read_text()).items() if not k.endswith("content")}
    record.write_text(json.dumps(values))
    resume(on_folders)


def test_another_number_of_identities_is_refused_even_if_accepted(on_folders):
    draw_people(on_folders.parent / "people", 3, first=6)
    with pytest.raises(ConfigError, match=r"^data.train: .* was trained on 4 identities, got 5"):
        resume(on_folders, accept=("data",))


def test_an_unknown_name_of_a_change_is_refused(on_folders):
    with pytest.raises(ConfigError, match="--resume-with sed: cannot be accepted; did you mean seed"):
        resume(on_folders, accept=("sed",))


def test_after_an_accepted_change_the_best_metric_starts_again(on_folders):
    run = run_of(on_folders)
    state = run / "checkpoints" / "last.rtool" / "training.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "best": 2.0}))  # no metric is above 1
    changes = ["epochs=2", "seed=5", f"data.train={on_folders.parent / 'people'}"]
    result = finetune(on_folders, changes, resume=run, resume_with=["seed"], quiet=True)
    assert result.best_metric is not None
    assert result.best_metric <= 1
    assert "as accepted: the best metric starts again" in (run / "log.txt").read_text()
