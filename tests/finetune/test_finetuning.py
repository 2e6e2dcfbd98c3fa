"""Runs end to end on tiny data: what is in the folder, what is reported, what cannot be trained."""

import json
import re

import pytest
import torch

from rtool.converters.bundles.reference import load_model
from rtool.errors import ConfigError, DataError, InputError, PlatformError
from rtool.finetune.config.files import load_config
from rtool.finetune.evaluation.evaluation import evaluate
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics

from .small_runs import BASE, OSNET, assert_same_state, weights


def test_the_source_is_measured_first_and_the_run_says_what_it_gained(config, tiny_model):
    result = finetune(config, quiet=True)
    run, rows = result.run_dir, read_metrics(result.run_dir)
    expected = evaluate(tiny_model["reference"], BASE["data"]["evaluate"], preprocessing="imagenet")
    assert rows[0]["kind"] == "source"
    assert rows[0]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert result.source_metrics["rank1"] == pytest.approx(expected.rank1, abs=1e-6)
    gain = {"metric": "mAP", "before": rows[0]["mAP"], "after": result.best_metric}
    assert result.gain == {**gain, "difference": result.best_metric - rows[0]["mAP"]}
    assert json.loads((run / "result.json").read_text())["gain"] == result.gain
    line = f"mAP {rows[0]['mAP']:.4f} -> {result.best_metric:.4f} ({result.gain['difference']:+.4f})"
    assert line in (run / "log.txt").read_text().splitlines()[-1]
    page = (run / "report.html").read_text()
    assert "Before and after" in page
    assert f"<td>{rows[0]['mAP']:.4f}</td>" in page


def test_measuring_the_source_changes_no_bit_of_the_training(config):
    first = finetune(config, ["epochs=1"], quiet=True)
    second = finetune(config, ["epochs=1", "evaluation.first=false"], quiet=True)
    assert_same_state(first.run_dir, second.run_dir)
    assert second.source_metrics is None
    assert second.gain is None
    assert "Before and after" not in (second.run_dir / "report.html").read_text()


def test_a_resumed_run_does_not_measure_its_source_again(config):
    before = finetune(config, ["epochs=1"], quiet=True)
    after = finetune(config, ["epochs=2"], resume=before.run_dir, quiet=True)
    rows = read_metrics(after.run_dir)
    assert [row["step"] for row in rows if row["kind"] == "source"] == [0]
    assert after.gain["before"] == before.gain["before"]


def test_a_run_leaves_configuration_environment_log_metrics_and_checkpoints(config):
    result = finetune(config, ["tracking.tensorboard=true"], quiet=True)
    run = result.run_dir
    assert load_config(run / "config.yaml") == load_config(config, ["tracking.tensorboard=true"])
    assert json.loads((run / "env.json").read_text())["processes"] == 1
    assert "epoch 2/2" in (run / "log.txt").read_text()
    rows = read_metrics(run)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 9))
    assert len([row for row in rows if row["kind"] == "evaluation"]) == 2
    assert result.finished
    assert result.epochs == 2
    assert result.best_metric == max(row["mAP"] for row in rows if row["kind"] == "evaluation")
    assert load_model(run).preprocessing.height == 32
    assert not list(run.glob("checkpoints/.*"))
    assert (run / "metrics.csv").read_text().startswith("kind,step,epoch,losses/arcface,losses/triplet,lr")
    assert list((run / "tb").glob("events.*"))
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "data:image/png;base64," in page
    assert not re.search(r'(src|href)="http|<script|<link', page)


def test_what_was_loaded_removed_and_ignored_of_a_weights_file_is_reported(config, tmp_path):
    from rtool.converters import build_architecture

    state = build_architecture("osnet_x0_25").state_dict()
    wrapped = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "w.ckpt")
    changes = [OSNET, f"model.weights={tmp_path / 'w.ckpt'}", "epochs=1", "steps_per_epoch=1"]
    result = finetune(config, changes, quiet=True)
    origin = result.weights["origin"]
    assert (origin["container"], origin["removed"], origin["ignored"]) == ("state_dict", ["model."], ["epoch"])
    assert len(result.weights["matched"]) == len(state)
    line = f"{len(state)} tensors loaded; read from 'state_dict'; 'model.' removed from the names"
    assert line in (result.run_dir / "log.txt").read_text()


def test_the_saved_model_is_the_one_that_was_evaluated(config):
    from rtool.finetune.evaluation.evaluation import evaluate

    result = finetune(config, quiet=True)
    again = evaluate(result.last, BASE["data"]["evaluate"])
    assert again.mAP == pytest.approx(result.metrics["mAP"], abs=1e-6)


def test_a_checkpoint_tells_how_it_came_to_be(config):
    """Where it began, and one link for this run with the metrics of these very weights."""
    result = finetune(config, [OSNET], quiet=True)
    chain = load_model(result.last).chain
    assert [link.step for link in chain] == ["source", "trained"]
    facts = chain[-1].facts
    assert (facts["run"], facts["epochs"], facts["steps"]) == ("tiny", result.epochs, result.steps)
    assert facts["metrics"] == json.loads((result.run_dir / "result.json").read_text())["metrics"]
    assert facts["metrics"]["mAP"] == result.metrics["mAP"]
    assert load_model(result.run_dir).name == "tiny"


def test_a_finished_run_is_not_resumed(config):
    first = finetune(config, ["epochs=1"], quiet=True)
    second = finetune(config, ["epochs=1"], resume="auto", quiet=True)
    assert first.run_dir != second.run_dir


def test_frozen_layers_and_their_batchnorm_stay_and_others_move(config):
    result = finetune(config, [OSNET, "model.freeze={'conv1*': null}", "epochs=1"], quiet=True)
    torch.manual_seed(0)
    from rtool.converters import build_architecture

    fresh = build_architecture("osnet_x0_25").state_dict()
    trained = weights(result.run_dir)
    assert torch.equal(trained["conv1.conv.weight"], fresh["conv1.conv.weight"])
    assert torch.equal(trained["conv1.bn.running_mean"], fresh["conv1.bn.running_mean"])
    assert not torch.equal(trained["conv5.conv.weight"], fresh["conv5.conv.weight"])


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.reference=osnet_x0_26", InputError, "did you mean osnet_x0_25"),
        ("model.freeze={'conv9*': null}", ConfigError, "matches no parameter"),
        ("optimizer.lr_multipliers={'conv9*': 1}", ConfigError, "matches no parameter"),
        ("device=cuda:7", PlatformError, "GPU 7 was asked for"),
        ("data.batch=64", DataError, "lower data.batch"),
        ("model={reference: osnet_x0_25, size: [32, 16], restore_bn: true}", ConfigError, "has its BatchNorms"),
        ("model.output=1", InputError, "has 1 outputs"),
        ("evaluation.metric=map", ConfigError, "known: mAP"),
        (
            "data.evaluate='synthetic-faces:identities=4,images=2,seed=2,size=32x16'",
            DataError,
            "4 pairs of one identity",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_way_out(config, override, error, message):
    with pytest.raises(error, match=message):
        finetune(config, [override, "epochs=1", "steps_per_epoch=1"], quiet=True)
    assert not list(config.parent.glob("runs/tiny/*/checkpoints/*"))


def test_a_second_run_cannot_write_into_the_same_folder(config):
    from rtool.finetune.runs.run_folder import create_run_folder, run_locked

    path = create_run_folder(load_config(config))
    with run_locked(path), pytest.raises(InputError, match="another run is writing here"), run_locked(path):
        pass
