"""Every benchmark that the Makefile or the README names starts, and each that can be started is named there."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent
NAMED = sorted(
    {
        name
        for file in ("Makefile", "README.md")
        for name in re.findall(r"-m (rtool\.benchmarks\.[a-z0-9_.]+)", (ROOT / file).read_text())
    }
)


def test_what_is_named_is_what_can_be_started():
    """The workers of two comparisons are started by them, in environments of their own, and by nobody else."""
    startable = {
        ".".join(("rtool", *path.relative_to(ROOT).with_suffix("").parts))
        for path in (ROOT / "benchmarks").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    workers = {"rtool.benchmarks.conversion.conversion_worker", "rtool.benchmarks.training.decoding_worker"}
    assert startable - workers == set(NAMED)


@pytest.mark.parametrize("module", NAMED)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_entry_point_explains_itself(module, monkeypatch, capsys):
    """As `python -m MODULE --help`, in this process, where torch is loaded already."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert " ".join(capsys.readouterr().out.split()).startswith(f"usage: python -m {module} ")


@pytest.mark.slow
@pytest.mark.parametrize("module", NAMED)
def test_every_entry_point_starts_in_a_process_of_its_own(module, tmp_path):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_every_target_of_the_makefile_exists():
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
