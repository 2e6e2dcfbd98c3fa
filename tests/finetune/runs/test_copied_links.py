"""A run folder whose links became folders, as `scp -r` and `cp -rL` write them, is resumed like the original."""

import shutil

import pytest

from rtool.finetune.config.files import load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import load_progress
from rtool.finetune.runs.resuming import opened_run

from .recorded_runs import run_of

LINKS = ("last.rtool", "best.rtool")


@pytest.fixture
def copied(recipe):
    """The run with its links followed, and the name of its one checkpoint."""
    run = run_of(recipe)
    shutil.copytree(run, run.with_name("copy"))
    shutil.rmtree(run)
    (run.with_name("copy")).rename(run)
    assert not any((run / "checkpoints" / name).is_symlink() for name in LINKS)
    (step,) = (run / "checkpoints").glob("step-*.rtool")
    return run, step.name


def targets(run):
    return {name: (run / "checkpoints" / name).readlink().name for name in LINKS}


def test_copies_become_links_to_the_checkpoint_that_they_are_copies_of(recipe, copied):
    run, step = copied
    with opened_run(load_config(recipe, ["epochs=2"]), run) as (_, checkpoint):
        assert checkpoint == run / "checkpoints" / step
    assert targets(run) == dict.fromkeys(LINKS, step)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == sorted([*LINKS, step])


def test_a_copy_that_is_alone_becomes_the_checkpoint_itself(recipe, copied):
    run, step = copied
    shutil.rmtree(run / "checkpoints" / step)
    with opened_run(load_config(recipe, ["epochs=2"]), run) as (_, checkpoint):
        assert checkpoint == run / "checkpoints" / step
    assert targets(run) == dict.fromkeys(LINKS, step)


def test_such_a_run_goes_on(recipe, copied):
    run, _ = copied
    assert finetune(recipe, resume=run, overrides=["epochs=2"], quiet=True).finished
    assert load_progress(run / "checkpoints/last.rtool").epoch == 2


def test_what_else_lies_beside_the_checkpoints_is_left_alone(recipe):
    folder = run_of(recipe) / "checkpoints"
    (folder / "step-mine.rtool").mkdir()
    (folder / "step-00000099.rtool").write_text("a note")
    assert finetune(recipe, resume=run_of(recipe), overrides=["epochs=2"], quiet=True).finished
    assert (folder / "step-00000099.rtool").read_text() == "a note"
