"""A finished run of one epoch, copied for each test that goes on with it."""

import shutil
from pathlib import Path

import pytest
import yaml

from rtool.finetune.finetuning import finetune


@pytest.fixture(scope="session")
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
