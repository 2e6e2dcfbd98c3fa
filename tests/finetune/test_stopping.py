"""Ctrl-C and SIGTERM: the step ends, a checkpoint is saved, and what is printed says how to continue."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtool.cli.main import run
from rtool.finetune.finetuning import finetune
from rtool.finetune.processes.interruption import on_stop_signal
from rtool.finetune.runs.checkpoints import load_progress
from rtool.finetune.runs.run_folder import run_locked
from rtool.finetune.training import training
from rtool.finetune.training.prepared_data import prepare_data


@pytest.fixture
def recipe(write_recipe) -> Path:
    return write_recipe(epochs=2, log_every=1)


@pytest.fixture
def send_after_step(monkeypatch):
    """Send signals to this process when a step has been reported."""

    def arrange(step: int, *numbers: signal.Signals) -> None:
        original = training.Trainer._report

        def report(self, meter):
            original(self, meter)
            if self._progress.step == step:
                for number in numbers:
                    signal.raise_signal(number)  # at once: two of a kind sent to the process may arrive as one

        monkeypatch.setattr(training.Trainer, "_report", report)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with &
    yield arrange
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_says_how_to_go_on_and_ends_as_shells_expect(recipe, send_after_step, capsys):
    send_after_step(3, signal.SIGINT)
    code = run(["finetune", str(recipe), "--no-progress"])
    printed = capsys.readouterr()
    assert code == 130
    assert "by SIGINT, and saved; continue with --resume auto" in printed.out
    folder = Path(printed.out.splitlines()[-1])
    assert (folder / "checkpoints" / "last.rtool").resolve().name == "step-00000003.rtool"
    assert finetune(recipe, resume="auto", quiet=True).run_dir == folder


def test_a_second_ctrl_c_ends_at_once_and_names_the_folder(recipe, send_after_step, capsys):
    send_after_step(5, signal.SIGINT, signal.SIGINT)
    code = run(["finetune", str(recipe)])
    printed = capsys.readouterr()
    assert code == 130, printed.err
    assert f"Checkpoints are in {recipe.parent / 'runs' / 'tiny'}" in printed.err
    assert "--resume auto" in printed.err
    assert "Traceback" not in printed.err


def test_sigterm_may_come_twice(recipe, send_after_step):
    send_after_step(2, signal.SIGTERM, signal.SIGTERM)
    result = finetune(recipe, quiet=True)
    assert not result.finished
    assert result.stopped_by == "SIGTERM"
    assert result.steps == 2
    with pytest.raises(SystemExit) as ended:
        result.whole()
    assert ended.value.code == 143


def test_the_first_of_two_signals_is_the_reason(recipe, send_after_step):
    """As a launcher makes of a second Ctrl-C."""
    send_after_step(2, signal.SIGINT, signal.SIGTERM)
    result = finetune(recipe, quiet=True)
    assert result.stopped_by == "SIGINT"
    with pytest.raises(KeyboardInterrupt):
        result.whole()


def test_sigterm_while_data_are_read_stops_after_the_first_step(recipe, monkeypatch):
    def read_slowly(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return prepare_data(*arguments)

    monkeypatch.setattr("rtool.finetune.finetuning.prepare_data", read_slowly)
    result = finetune(recipe, quiet=True)
    assert (result.finished, result.stopped_by, result.steps) == (False, "SIGTERM", 1)
    assert load_progress(result.last).step == 1


WORKING = ["epochs=500", "threads=1", "data.workers=2", "checkpoints.every_steps=1", "-q"]


def started(recipe: Path, *options: str) -> subprocess.Popen[str]:
    """A run in a group of its own that has saved a checkpoint."""
    command = [sys.executable, "-m", "rtool", "finetune", str(recipe), *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(recipe.parent.glob("runs/tiny/*/checkpoints/last.rtool")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_sigterm_to_a_whole_group_with_batch_workers_saves_and_exits_0(recipe):
    process = started(recipe, *WORKING)
    try:
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert '"stopped_by": "SIGTERM"' in (Path(output.strip()) / "result.json").read_text()


def test_batch_workers_do_not_hold_the_run_of_a_parent_that_was_killed(recipe):
    process = started(recipe, *WORKING)
    (folder,) = (recipe.parent / "runs" / "tiny").iterdir()
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=120)
    assert len(workers) >= 2
    deadline = time.monotonic() + 2  # the workers' own watch takes 5 s
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    with run_locked(folder):
        pass


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_worker_that_is_killed_is_told_as_want_of_memory(recipe, processes):
    process = started(recipe, *WORKING, "--nproc", str(processes))
    try:
        trainer = process.pid if processes == 1 else trainers(process.pid)[-1]
        kill_children_until_it_ends(trainer, process)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2, errors
    # torch does not hear of the signal where the connection breaks off first
    assert "a batch worker was killed (signal 9);" in errors or "a batch worker ended unexpectedly;" in errors
    assert "the machine may be out of memory; lower data.workers or data.memory_gb" in errors
    assert "bug in rtool" not in errors


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    asked = []
    with on_stop_signal(asked.append):
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["SIGTERM"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_sigterm_to_the_launcher_lets_two_processes_save_and_exit_0(recipe):
    command = [sys.executable, "-m", "rtool", "finetune", str(recipe), "epochs=500", "threads=1", "--nproc", "2", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(recipe.parent.glob("runs/tiny/*/checkpoints/last.rtool")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    folder = Path(output.strip())
    assert (folder / "checkpoints" / "last.rtool").exists()
    assert '"stopped_by": "SIGTERM"' in (folder / "result.json").read_text()


def test_kill_9_of_the_launcher_ends_both_processes_and_their_run_can_be_resumed(recipe):
    options = ["epochs=500", "threads=1"]
    command = [sys.executable, "-m", "rtool", "finetune", str(recipe), *options, "--nproc", "2", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(recipe.parent.glob("runs/tiny/*/checkpoints/last.rtool")) and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = children(process.pid)
    finally:
        process.kill()
        process.wait()
    assert len(workers) >= 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    (folder,) = (recipe.parent / "runs" / "tiny").iterdir()
    done = load_progress((folder / "checkpoints" / "last.rtool").resolve()).epoch
    resumed = finetune(recipe, [f"epochs={done + 1}"], resume="auto", quiet=True)
    assert resumed.run_dir == folder
    assert resumed.finished


def kill_children_until_it_ends(pid: int, process: subprocess.Popen[str]) -> None:
    """Workers live for an epoch; one that was at its end when it was killed is missed by nobody."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        for worker in children(pid)[-1:]:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.3)


def children(pid: int) -> list[int]:
    """Processes that `pid` started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):  # it has ended meanwhile
            continue
        if parent == pid:
            found.append(int(path.parent.name))
    return found


def trainers(launcher: int) -> list[int]:
    """The training processes among what `launcher` started."""
    return [pid for pid in children(launcher) if b"rtool.finetune.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_no_progress_draws_no_bar_on_a_terminal(recipe, monkeypatch):
    shown = []
    monkeypatch.setattr("rtool.finetune.finetuning.ProgressDisplay", lambda **options: shown.append(options) or _None())
    finetune(recipe, ["epochs=1"], progress=False)
    assert shown == [{"quiet": False, "bar": False}]


class _None:
    """A display that shows nothing."""

    has_bar = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def line(self, text):
        """Ignore."""

    def update(self, *_):
        """Ignore."""

    def stage(self, *_):
        """Ignore."""


def test_a_run_says_where_it_does_otherwise_than_configured(recipe):
    result = finetune(recipe, ["epochs=1", "steps_per_epoch=50", "precision=half"], quiet=True)
    log = (result.run_dir / "log.txt").read_text()
    assert "note: steps_per_epoch 50 has no effect: the data make 4 steps per epoch" in log
    assert "note: precision half: bfloat16 on cpu" in log
    assert "1 process on cpu" in log
