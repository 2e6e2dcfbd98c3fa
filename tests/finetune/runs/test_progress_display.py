"""What a long evaluation shows between two steps of training."""

import pytest

from rtool.finetune.runs import progress_display
from rtool.finetune.runs.progress_display import ProgressDisplay


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_display.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_of_seconds_shows_a_line_now_and_then(clock, capsys):
    display = ProgressDisplay(bar=False)
    for done in range(1, 31):
        display.stage("matching pairs", done, 30)
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"matching pairs: {done} of 30" for done in (6, 11, 16, 21, 26)]


def test_a_short_stage_and_a_quiet_run_show_nothing(clock, capsys):
    display = ProgressDisplay(bar=False)
    for what in ("embedding a", "embedding b", "matching pairs"):
        display.stage(what, 1, 2)
        clock[0] += 4
        display.stage(what, 2, 2)
    quiet = ProgressDisplay(quiet=True)
    quiet.stage("embedding a", 1, 2)
    clock[0] += 60
    quiet.stage("embedding a", 2, 2)
    assert capsys.readouterr().err == ""
