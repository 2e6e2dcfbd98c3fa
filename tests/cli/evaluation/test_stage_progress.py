"""Progress of long steps: nothing at first, then a line now and then, and the last one."""

import pytest

from rtool.cli.evaluation import stage_progress
from rtool.cli.evaluation.stage_progress import StageProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stage_progress.time, "monotonic", lambda: now[0])
    return now


def test_a_short_step_says_nothing_and_a_long_one_now_and_then(clock, capsys):
    show = StageProgress()
    for done in range(1, 6):
        show("embedding", done, 5)
        clock[0] += 0.3
    assert capsys.readouterr().err == ""
    for done in range(41):
        show("ranking queries", done, 40)
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ranking queries: 2 of 40, 0:38 left"
    assert lines[-1] == "ranking queries: 40 of 40"
    assert len(lines) == 5


def test_quiet_shows_nothing(clock, capsys):
    show = StageProgress(quiet=True)
    for done in range(30):
        show("ranking queries", done, 40)
        clock[0] += 1
    assert capsys.readouterr().err == ""
