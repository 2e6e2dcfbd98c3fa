"""Numbers beside metrics.jsonl: what the wandb client is given, and the message if it is not installed.

The client talks to a server, which a test cannot; a recording module stands in its place.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from rtool.errors import PlatformError
from rtool.finetune.config.config import TrackingConfig
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics
from rtool.finetune.runs.tracking import flatten_record, open_trackers

CONFIG = {
    "name": "tiny",
    "epochs": 1,
    "log_every": 1,
    "data": {
        "train": "synthetic-people:identities=8,images=4,seed=1,size=32x16",
        "evaluate": "synthetic-people:identities=4,images=8,seed=2,size=32x16",
        "batch": 16,
    },
    "losses": [{"kind": "arcface"}],
    "tracking": {"tensorboard": False, "wandb": "faces"},
}


@pytest.fixture
def calls(monkeypatch):
    recorded = []
    module = ModuleType("wandb")

    def init(**options):
        recorded.append(("init", options))
        return SimpleNamespace(
            log=lambda values, step: recorded.append(("log", values, step)),
            finish=lambda: recorded.append(("finish",)),
        )

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return recorded


def test_wandb_is_given_the_configuration_every_number_and_the_end(calls, tiny_model, tmp_path):
    from rtool.finetune.config.config import FinetuneConfig

    config = FinetuneConfig.model_validate({**CONFIG, "model": tiny_model, "output": tmp_path})
    run = finetune(config, quiet=True).run_dir
    kind, options = calls[0]
    assert kind == "init"
    assert options["project"] == "faces"
    assert options["name"] == run.name
    assert options["id"] == f"tiny-{run.name}"
    assert options["resume"] == "allow"
    assert options["dir"] == run
    assert options["config"] == config.model_dump(mode="json")
    logged = [(values, step) for kind, values, step in calls[1:-1] if kind == "log"]
    expected = [
        ({f"{row['kind']}/{name}": value for name, value in flatten_record(row)}, row["step"])
        for row in read_metrics(run)
    ]
    assert logged == expected
    assert "source/mAP" in logged[0][0]
    assert "train/losses/arcface" in logged[1][0]
    assert any("evaluation/rank1" in values for values, _ in logged)
    assert calls[-1] == ("finish",)


def test_a_client_that_is_not_installed_is_named_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PlatformError, match="wandb is not installed; pip install wandb, or set it to null"):
        open_trackers(TrackingConfig(tensorboard=False, wandb="faces"), tmp_path, 0, {})
