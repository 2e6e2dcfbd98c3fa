"""Resuming a run: what may be changed, what is refused by name, and what damage is reported."""

import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rtool.errors import ConfigError, InputError, PlatformError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.config.files import dump_config, load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.network.networks import load_network
from rtool.finetune.runs.checkpoints import check_checkpoint
from rtool.finetune.runs.data_record import load_data_record
from rtool.finetune.runs.resuming import opened_run
from rtool.finetune.runs.run_folder import read_metrics, run_locked
from rtool.finetune.training import training
from rtool.finetune.training.prepared_data import describe_data
from rtool.finetune.training.schedules import learning_rate_factor


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny) -> Path:
    """A configuration file whose one run has done an epoch."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**tiny, "threads": 1, "log_every": 1, "output": str(folder / "runs")}))
    finetune(path, quiet=True)
    return path


@pytest.fixture
def recipe(trained, tmp_path) -> Path:
    """The same in a folder of the test's own."""
    shutil.copytree(trained.parent / "runs", tmp_path / "runs", symlinks=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(trained.read_text()), "output": str(tmp_path / "runs")}))
    return path


def run_of(recipe: Path) -> Path:
    (run,) = (recipe.parent / "runs" / "tiny").iterdir()
    return run


def rates(run: Path) -> dict[int, float]:
    return {row["step"]: row["lr"] for row in read_metrics(run) if row["kind"] == "train"}


def test_a_zoo_model_with_options_is_read_back_from_its_checkpoint(tmp_path):
    config = ModelConfig(reference="iresnet18", size=(32, 32), options={"dropout": 0.1})
    network = load_network(config)
    network.save(tmp_path / "checkpoint.rtool", network.module, None)
    assert load_network(config, tmp_path / "checkpoint.rtool").dimension == network.dimension


@pytest.mark.parametrize(
    "change",
    [
        "model.reference=osnet_x0_5",
        "model.options={'dropout': 0.1}",
        "model.output=1",
        "model.weights=other.safetensors",
        "model.restore_bn=true",
        "losses.0={kind: softmax}",
        "losses=[{kind: arcface, scale: 16}, {kind: triplet}]",
        "optimizer.kind=sgd",
        "optimizer.ema=0.9",
        "evaluation.metric=rank1",
        "evaluation.protocol=retrieval",
    ],
)
def test_a_change_that_a_checkpoint_does_not_bear_is_refused_by_name(recipe, change):
    run = run_of(recipe)
    before = (run / "config.yaml").read_text()
    field = change.partition("=")[0].removesuffix(".0")
    config = load_config(recipe, ["epochs=2", change])
    with pytest.raises(ConfigError, match=rf"^{field}: .*; put it back, or start a new run$"), opened_run(config, run):
        pass
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        "epochs=3",
        "optimizer.lr=1e-4",
        "data.batch=4",
        "data.workers=1",
        "log_every=7",
        "losses.0.scale=8",
        "optimizer.weight_decay=0",
        "precision=bf16",
        "device=cpu",
        "model.freeze={'conv1*': null}",
        "schedule.kind=constant",
    ],
)
def test_other_changes_are_taken_over(recipe, change):
    config = load_config(recipe, ["epochs=2", change])
    with opened_run(config, run_of(recipe)) as (run, checkpoint):
        assert load_config(run / "config.yaml") == config
        assert checkpoint == (run / "checkpoints" / "last.rtool").resolve()


def files_of(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in run.glob("*config*")}


@pytest.fixture
def full_disk():
    """No byte can be written to a file within the context."""

    @contextmanager
    def full():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


def test_a_full_disk_leaves_the_configuration_as_it_was(recipe, full_disk):
    run = run_of(recipe)
    before = files_of(run)
    config = load_config(recipe, ["epochs=2"])
    message = "size limit of this process .* while writing config.yaml; .* --resume auto$"
    with full_disk(), pytest.raises(PlatformError, match=message), opened_run(config, run):
        pass
    assert files_of(run) == before
    with opened_run(config, run):
        assert files_of(run) == {"config.yaml": dump_config(config), "config-1.yaml": before["config.yaml"]}


def test_an_unchanged_configuration_is_not_written(recipe, full_disk):
    run = run_of(recipe)
    (run / "result.json").unlink()
    with full_disk(), opened_run(load_config(run / "config.yaml"), run):
        pass
    assert list(files_of(run)) == ["config.yaml"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_kill_while_the_configuration_is_renewed_leaves_the_one_before(recipe, monkeypatch, number):
    run = run_of(recipe)
    before = (run / "config.yaml").read_text()
    config = load_config(recipe, ["epochs=2"])
    original, calls = os.replace, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) > number:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt), opened_run(config, run):
            pass
    assert (run / "config.yaml").read_text() == before
    with opened_run(config, run):
        assert (run / "config.yaml").read_text() == dump_config(config)


def test_training_data_of_other_identities_are_refused(recipe):
    data = "data.train=synthetic-people:identities=9,images=4,seed=1,size=32x16"
    with pytest.raises(
        ConfigError, match=r"data.train: .* was trained on 8 identities, got 9, and its heads have a row for each"
    ):
        finetune(recipe, ["epochs=2", data], resume=run_of(recipe), quiet=True)


def test_a_run_that_is_being_written_is_neither_named_nor_found(recipe):
    run = run_of(recipe)
    (run / "result.json").unlink()
    before = (run / "config.yaml").read_text()
    config = load_config(recipe, ["epochs=9", "optimizer.lr=0.5"])
    with run_locked(run):
        for resume in (run, "auto"):
            with pytest.raises(InputError, match="another run is writing here"), opened_run(config, resume):
                pass
    assert (run / "config.yaml").read_text() == before


def test_a_run_killed_before_its_result_was_written_gets_it_from_its_metrics(recipe):
    run = run_of(recipe)
    whole = json.loads((run / "result.json").read_text())
    for name in ("result.json", "report.html", "metrics.csv"):
        (run / name).unlink()
    finetune(recipe, resume="auto", quiet=True)
    again = json.loads((run / "result.json").read_text())
    assert whole["metrics"]
    assert {**again, "images_per_second": 0} == {**whole, "images_per_second": 0}
    assert again["images_per_second"] > 0
    assert (run / "report.html").exists()
    assert (run / "metrics.csv").exists()


def test_an_epoch_whose_evaluation_failed_is_evaluated_when_the_run_goes_on(recipe, monkeypatch):
    def fail(self, sets):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_measure", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            finetune(recipe, ["epochs=2"], resume=run_of(recipe), quiet=True)
    result = finetune(recipe, ["epochs=2"], resume=run_of(recipe), quiet=True)
    assert result.finished
    rows = [row["step"] for row in read_metrics(result.run_dir) if row["kind"] == "evaluation"]
    assert rows == [4, 8]


def test_a_checkpoint_can_be_named_to_go_on_from(recipe):
    run = run_of(recipe)
    finetune(recipe, ["epochs=3", "checkpoints.keep=9"], resume=run, quiet=True)
    checkpoint = run / "checkpoints" / "step-00000008.rtool"
    with opened_run(load_config(recipe, ["epochs=4"]), checkpoint) as found:
        assert found == (run, checkpoint)


def test_gone_on_from_an_older_checkpoint_a_run_forgets_the_later_ones(recipe):
    """They were of another branch, and better: the best to beat is the best of what is left."""
    run = run_of(recipe)
    finetune(recipe, ["epochs=3", "checkpoints.keep=9"], resume=run, quiet=True)
    rows = read_metrics(run)
    for row in rows:
        if row["kind"] == "evaluation":
            row["mAP"] = {4: 0.0, 8: 0.01, 12: 2.0}[row["step"]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoints = run / "checkpoints"
    (checkpoints / "best.rtool").unlink()
    (checkpoints / "best.rtool").symlink_to("step-00000012.rtool")
    os.truncate(checkpoints / "step-00000012.rtool" / "training.safetensors", 100)
    result = finetune(recipe, ["epochs=3"], resume=checkpoints / "step-00000008.rtool", quiet=True)
    evaluations = {row["step"]: row["mAP"] for row in read_metrics(run) if row["kind"] == "evaluation"}
    assert sorted(evaluations) == [4, 8, 12]
    assert result.best_metric == max(evaluations.values()) == evaluations[12] > 0.01
    assert result.best == checkpoints / "best.rtool"
    assert result.best.resolve() == result.last == checkpoints.resolve() / "step-00000012.rtool"
    check_checkpoint(result.last)
    renamed = "step-00000012.rtool, the best until now, renamed abandoned-00000012.rtool"
    assert f"resuming from step-00000008.rtool: {renamed}" in (run / "log.txt").read_text()


def test_later_checkpoints_stand_until_the_older_one_is_loaded(recipe, monkeypatch):
    run = run_of(recipe)
    finetune(recipe, ["epochs=2"], resume=run, quiet=True)
    before = sorted(path.name for path in (run / "checkpoints").iterdir())

    def fail(self, tensors):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training.Stepper, "load", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        finetune(recipe, ["epochs=2"], resume=run / "checkpoints" / "step-00000004.rtool", quiet=True)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    assert (run / "checkpoints" / "last.rtool").resolve().name == "step-00000008.rtool"


def test_what_a_kill_left_half_done_is_cleared_away(recipe):
    run = run_of(recipe)
    checkpoints = run / "checkpoints"
    for name in (".step-00000008.rtool.partial", ".shards-00000008"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "shard-00002.safetensors").touch()
    with opened_run(load_config(recipe, ["epochs=2"]), run):
        assert not list(checkpoints.glob(".*"))


def test_a_record_of_another_version_is_refused(recipe):
    record = run_of(recipe) / "checkpoints" / "last.rtool" / "training.json"
    values = json.loads(record.read_text())
    del values["batches"]
    record.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"training.json: lacks batches; another version of rtool wrote it"):
        finetune(recipe, ["epochs=2"], resume=run_of(recipe), quiet=True)


def test_a_damaged_checkpoint_is_refused_with_the_one_before(recipe):
    run = run_of(recipe)
    finetune(recipe, ["epochs=2"], resume=run, quiet=True)
    os.truncate(run / "checkpoints" / "last.rtool" / "training.safetensors", 100)
    with pytest.raises(InputError, match=r"training.safetensors: .* --resume .*step-00000004.rtool$"):
        finetune(recipe, ["epochs=3"], resume=run, quiet=True)


def test_rates_keep_their_curve_when_a_run_goes_on_with_larger_batches(recipe, monkeypatch):
    """Stopped after 6 of 8 steps of an epoch; with twice the batch it continues after 3 of 4."""
    shutil.rmtree(recipe.parent / "runs")
    original = training.Trainer._report

    def report(self, meter):
        original(self, meter)
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_report", report)
        finetune(recipe, ["epochs=2", "data.batch=4"], quiet=True)
    config = load_config(recipe, ["epochs=2"])
    result = finetune(config, resume="auto", quiet=True)
    assert result.steps == 11
    for step, rate in rates(result.run_dir).items():
        place, steps_per_epoch = (step - 1, 8) if step <= 6 else (step - 4, 4)
        factor = learning_rate_factor(config.schedule, place, steps_per_epoch, config.epochs)
        assert rate == config.optimizer.lr * factor, step
    assert "batches of 8 images from here on, 4 before" in (result.run_dir / "log.txt").read_text()


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
