"""Checkpoint folders: what is kept and given up, what a kill leaves, shards of processes, going back after a damage."""

import os
import re
from pathlib import Path

import pytest
import torch

from rtool.errors import InputError, PlatformError
from rtool.finetune.runs import checkpoints
from rtool.finetune.runs.checkpoints import (
    Progress,
    best_step,
    check_checkpoint,
    clear_partial,
    give_up_later,
    go_back_to_proven,
    load_shards,
    prune_checkpoints,
    save_checkpoint,
    stage_shard,
)


def write_bundle(path: Path) -> None:
    path.mkdir()
    checkpoints.save_file({"weight": torch.zeros(4)}, path / "weights.safetensors")


def save(folder: Path, progress: Progress, *, best: bool = False) -> Path:
    return save_checkpoint(folder, progress, {"x": torch.zeros(1)}, write_bundle, best=best)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def target(link: Path) -> str:
    return os.readlink(link)


def stage(folder: Path, progress: Progress) -> None:
    for rank in range(progress.world_size):
        stage_shard(folder, progress, rank, {"weight": torch.full((12 // progress.world_size, 1), float(rank))})


def test_a_checkpoint_is_refused_that_would_take_in_shards_of_another_run(tmp_path):
    three, two = Progress(step=10, world_size=3), Progress(step=10, world_size=2)
    stage(tmp_path, three)  # and was killed here
    stage(tmp_path, two)
    with pytest.raises(PlatformError, match="shards of 3 processes, expected 2"):
        save(tmp_path, two)
    assert not list(tmp_path.glob("step-*"))
    clear_partial(tmp_path)  # as every start does
    stage(tmp_path, two)
    assert [len(shard["weight"]) for shard in load_shards(save(tmp_path, two))] == [6, 6]


def test_a_checkpoint_that_lost_a_shard_is_not_read(tmp_path):
    progress = Progress(step=10, world_size=2)
    stage(tmp_path, progress)
    checkpoint = save(tmp_path, progress)
    (checkpoint / "shard-00001.safetensors").unlink()
    with pytest.raises(InputError, match="has 1 shards, expected one of each of 2 processes"):
        load_shards(checkpoint)


def test_a_kill_between_the_two_links_loses_neither_best_nor_the_place_to_go_on_from(tmp_path, monkeypatch):
    save(tmp_path, Progress(step=4))
    moved = []
    monkeypatch.setattr(checkpoints, "link_checkpoint", lambda link, name: moved.append((link.name, name)))
    save(tmp_path, Progress(step=8), best=True)
    assert moved == [("best.rtool", "step-00000008.rtool"), ("last.rtool", "step-00000008.rtool")]


def test_a_kill_while_deleting_leaves_nothing_half_under_its_name(tmp_path, monkeypatch):
    for step in (4, 8):
        save(tmp_path, Progress(step=step))

    def killed(path, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune_checkpoints(tmp_path, 1, Progress(step=4))
    assert names(tmp_path) == [".step-00000004.rtool.partial", "last.rtool", "step-00000008.rtool"]
    clear_partial(tmp_path)
    assert names(tmp_path) == ["last.rtool", "step-00000008.rtool"]


def test_skipped_steps_do_not_push_out_the_checkpoint_from_before_the_damage(tmp_path):
    """The step after checkpoint 4 did the damage, unseen; every later one was skipped."""
    save(tmp_path, Progress(step=4), best=True)
    for step in (5, 6, 7, 8):
        progress = Progress(step=step, skipped_in_a_row=step - 5)
        save(tmp_path, progress)
        prune_checkpoints(tmp_path, 2, progress)
    assert target(tmp_path / "last.rtool") == "step-00000008.rtool"
    assert go_back_to_proven(tmp_path, Progress(step=15, skipped_in_a_row=10)).name == "step-00000004.rtool"
    assert names(tmp_path) == ["best.rtool", "last.rtool", "step-00000004.rtool"]
    assert target(tmp_path / "last.rtool") == "step-00000004.rtool"


def test_a_run_that_diverged_before_its_first_proven_checkpoint_has_none_to_go_on_from(tmp_path):
    save(tmp_path, Progress(step=1))
    assert go_back_to_proven(tmp_path, Progress(step=11, skipped_in_a_row=10)) is None
    assert names(tmp_path) == ["step-00000001.rtool"]


@pytest.mark.parametrize("damaged", ["training.json", "training.safetensors", "weights.safetensors"])
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_file_is_named_with_the_checkpoint_before(tmp_path, damaged, missing):
    before, last = (save(tmp_path, Progress(step=step)) for step in (4, 8))
    check_checkpoint(last)
    if missing:
        (last / damaged).unlink()
    else:
        os.truncate(last / damaged, 20)
    with pytest.raises(InputError) as refused:
        check_checkpoint(last)
    assert damaged in str(refused.value)
    assert re.search(rf"--resume {re.escape(str(before))}$", str(refused.value))


def test_without_another_checkpoint_a_damaged_one_asks_for_a_new_run(tmp_path):
    checkpoint = save(tmp_path, Progress(step=4))
    os.truncate(checkpoint / "training.safetensors", 5)
    with pytest.raises(InputError, match=r"training.safetensors: missing or damaged .*; start a new run"):
        check_checkpoint(checkpoint)


def branched(folder: Path, *, best: int) -> Path:
    """Checkpoints at steps 4, 8, 8 again, 12 and 16; the first at step 8 is returned."""
    paths = [save(folder, Progress(step=step), best=step == best) for step in (4, 8, 8, 12, 16)]
    return paths[1]


def state(folder: Path) -> dict[str, str]:
    return {path.name: os.readlink(path) if path.is_symlink() else "" for path in folder.iterdir()}


LEFT = {"step-00000004.rtool": "", "step-00000008.rtool": "", "last.rtool": "step-00000008.rtool"}


@pytest.mark.parametrize(
    ("best", "measured", "left"),
    [
        (4, {4: 0.5, 8: 0.4}, {"best.rtool": "step-00000004.rtool"}),
        (4, {}, {"best.rtool": "step-00000004.rtool"}),
        (12, {4: 0.5, 8: 0.4, 12: 0.9}, {"best.rtool": "step-00000004.rtool", "abandoned-00000012.rtool": ""}),
        (16, {4: 0.5, 8: 0.6, 16: 0.9}, {"best.rtool": "step-00000008.rtool", "abandoned-00000016.rtool": ""}),
        (16, {12: 0.8, 16: 0.9}, {"abandoned-00000016.rtool": ""}),
        (0, {}, {}),
    ],
)
def test_what_is_later_than_the_checkpoint_gone_on_from_is_given_up(tmp_path, best, measured, left):
    resumed = branched(tmp_path, best=best)
    lines = give_up_later(tmp_path, resumed, measured)
    assert state(tmp_path) == LEFT | left
    assert [line.split(".rtool")[0] for line in lines] == ["step-00000008-2", "step-00000012", "step-00000016"]
    assert best_step(tmp_path) == (int(left["best.rtool"][5:13]) if "best.rtool" in left else None)
    assert give_up_later(tmp_path, resumed, measured) == []
    assert state(tmp_path) == LEFT | left


def test_the_best_of_two_branches_given_up_are_both_kept(tmp_path):
    first = save(tmp_path, Progress(step=4))
    for _ in range(2):
        save(tmp_path, Progress(step=8), best=True)
        give_up_later(tmp_path, first, {})
    aside = ["abandoned-00000008-2.rtool", "abandoned-00000008.rtool"]
    assert names(tmp_path) == [*aside, "last.rtool", "step-00000004.rtool"]


@pytest.mark.parametrize("function", ["os.replace", "shutil.rmtree", "os.symlink"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_giving_up_leaves_a_run_that_can_go_on(tmp_path, monkeypatch, function, after):
    measured = {4: 0.5, 8: 0.4, 12: 0.9}
    kills = 0
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        resumed = branched(folder, best=12)
        with monkeypatch.context() as patch:
            kill_at(patch, function, number, after)
            try:
                give_up_later(folder, resumed, measured)
            except KeyboardInterrupt:
                kills += 1
        last = (folder / "last.rtool").resolve()
        check_checkpoint(last)
        clear_partial(folder)  # as every start does
        give_up_later(folder, resumed, measured)
        assert state(folder) == LEFT | {"best.rtool": "step-00000004.rtool", "abandoned-00000012.rtool": ""}
    assert kills == {"os.replace": 5, "shutil.rmtree": 2, "os.symlink": 2}[function]


def kill_at(patch: pytest.MonkeyPatch, function: str, number: int, after: bool) -> None:
    """Have the call of that number fail, before or after it has done its work, as a kill would."""
    module, name = function.split(".")
    original = getattr(getattr(checkpoints, module), name)
    calls = []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) - 1 != number:
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        raise KeyboardInterrupt

    patch.setattr(getattr(checkpoints, module), name, killed)


def test_a_run_that_branched_and_diverged_goes_back_to_its_own_checkpoint(tmp_path):
    """12 is damaged; gone on from 8, the run saves step 9 and the step after 10 does the damage."""
    for step in (4, 8, 12):
        save(tmp_path, Progress(step=step))
    resumed = tmp_path / "step-00000008.rtool"
    give_up_later(tmp_path, resumed, {})
    for step in (9, 10):
        progress = Progress(step=step)
        save(tmp_path, progress)
        prune_checkpoints(tmp_path, 2, progress)
    assert go_back_to_proven(tmp_path, Progress(step=21, skipped_in_a_row=10)).name == "step-00000010.rtool"
    assert names(tmp_path) == ["last.rtool", "step-00000009.rtool", "step-00000010.rtool"]
