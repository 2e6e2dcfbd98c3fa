"""`--dry-run` prints what a run would do, writes nothing, and refuses what would stop the run before its first step."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rtool.cli import main
from rtool.converters.bundles.onnx_to_bundle import onnx2torch
from rtool.errors import ConfigError, DataError, InputError
from rtool.finetune.config.config import PartialFCLoss
from rtool.finetune.config.files import load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.network.memory_estimate import estimate_memory
from rtool.finetune.network.networks import load_network
from rtool.finetune.processes.launching import count_processes
from rtool.finetune.runs.run_folder import create_run_folder
from rtool.finetune.training.planning import plan_run

OSNET = {"reference": "osnet_x0_25", "size": [32, 16]}


@pytest.fixture
def tiny(tiny):
    """With a network of the zoo, which has options and whose activations weigh as much as its weights."""
    return {**tiny, "model": OSNET}


def test_the_plan_has_shapes_counts_and_how_it_will_be_measured(write_recipe, tmp_path, capsys):
    plan = plan_run(load_config(write_recipe()), nproc=2)
    assert (plan.input, plan.embedding, plan.train_images, plan.train_identities) == ((3, 32, 16), 512, 32, 8)
    assert (plan.steps_per_epoch, plan.processes, plan.held_out_images) == (2, 2, 32)
    assert (plan.protocol, plan.metric) == ("retrieval", "mAP")
    assert main.run(["finetune", str(tmp_path / "tiny.yaml"), "--dry-run"]) == 0
    assert "retrieval; mAP chooses the best checkpoint" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_processes_share_a_global_batch(write_recipe):
    whole = {"batch": 64, "global_batch": 8, "sampler": "random"}
    shared = load_config(write_recipe(), [f"data.{key}={value}" for key, value in whole.items()])
    plan = plan_run(shared, nproc=2)
    assert (plan.batch, plan.steps_per_epoch) == (4, 4)
    assert plan_run(shared).batch == 8
    with pytest.raises(ConfigError, match=r"data\.global_batch 8: 3 processes cannot share it evenly"):
        shared.on_processes(3)
    with pytest.raises(ConfigError, match=r"data\.global_batch: data\.batch is given as well"):
        load_config(write_recipe(), ["data.batch=8", "data.global_batch=8"])


def test_the_plan_shows_what_a_weights_file_gives(write_recipe, tmp_path, capsys):
    torch.save({"model": load_network(load_config(write_recipe()).model).module.state_dict()}, tmp_path / "w.pth")
    config = write_recipe(model={**OSNET, "weights": str(tmp_path / "w.pth")})
    assert plan_run(load_config(config)).weights.origin.container == "model"
    assert main.run(["finetune", str(config), "--dry-run"]) == 0
    assert "tensors loaded; read from 'model'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.freeze={'conv9*': null}", ConfigError, "model.freeze: 'conv9.' matches no parameter"),
        ("optimizer.lr_multipliers={'conv9*': 1}", ConfigError, "lr_multipliers: 'conv9.' matches no parameter"),
        ("evaluation.metric=rank99", ConfigError, "no 'rank99'; did you mean rank5"),
        ("evaluation={protocol: verification, metric: mAP}", ConfigError, "no 'mAP'; known: accuracy"),
        ("evaluation={protocol: verification, rerank: true}", ConfigError, "ranks no gallery; leave it out"),
        ("data.evaluate='synthetic-faces:identities=4,images=2,size=32x16'", DataError, "4 pairs of one identity"),
        ("seed=10000000000", ConfigError, "'seed'"),
        ("model.restore_bn=true", ConfigError, "has its BatchNorms"),
        ("model.options={embedding_size: 0}", InputError, "embedding_size takes a whole number from 1 on"),
        ("optimizer.accumulate=99", DataError, "fewer than optimizer.accumulate 99"),
        ("losses=[{kind: pcb, parts: 7}]", ConfigError, "7 parts does not divide"),
        ("output=/proc/nowhere", InputError, r"/proc/nowhere/tiny: cannot create the run folder \(/proc: .*output=DIR"),
    ],
)
def test_what_would_stop_the_run_is_refused(write_recipe, override, error, message):
    with pytest.raises(error, match=message):
        plan_run(load_config(write_recipe(), [override]))


@pytest.mark.parametrize("output", ["file", "file/below", "link", "link/below", "n" * 300])
def test_a_folder_that_cannot_be_made_is_refused_as_a_run_would(write_recipe, tmp_path, output):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    config = load_config(write_recipe(), [f"output={tmp_path / output}"])
    for refusing in (plan_run, create_run_folder):
        with pytest.raises(InputError, match="cannot create the run folder"):
            refusing(config)


def test_a_folder_that_can_be_made_is_not(write_recipe, tmp_path):
    plan = plan_run(load_config(write_recipe(), [f"output={tmp_path / 'a' / 'b'}"]))
    assert plan.output == tmp_path / "a" / "b" / "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_layers_that_the_output_does_not_depend_on_are_nothing_to_train(write_recipe, tmp_path):
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.classes = nn.Linear(3 * 32 * 16, 8), nn.Linear(8, 5)

        def forward(self, images):
            embedding = self.embedding(images.flatten(1))
            return embedding, self.classes(embedding)

    path = tmp_path / "two.onnx"
    torch.onnx.export(TwoOutputs(), torch.zeros(2, 3, 32, 16), str(path), dynamo=False, output_names=["e", "c"])
    recipe = write_recipe(model={"reference": str(path), "size": [32, 16]}, losses=[{"kind": "triplet"}])
    frozen = "model.freeze={'[!c]*': null}"
    for refusing in (lambda: plan_run(load_config(recipe, [frozen])), lambda: finetune(recipe, [frozen], quiet=True)):
        with pytest.raises(ConfigError, match="would train nothing"):
            refusing()


def test_a_step_of_partial_fc_is_one_batch(write_recipe):
    with pytest.raises(ConfigError, match=r"optimizer\.accumulate"):
        load_config(write_recipe(losses=[{"kind": "partial_fc"}]), ["optimizer.accumulate=2"])
    with pytest.raises(ConfigError, match="would train nothing"):
        plan_run(load_config(write_recipe(losses=[{"kind": "triplet"}]), ["model.freeze={'*': null}"]))


def test_as_many_processes_are_planned_as_would_be_started(write_recipe):
    config = load_config(write_recipe())
    assert plan_run(config, nproc="auto").processes == count_processes("auto", "cpu")


def test_a_batch_of_one_is_refused_as_a_run_would(write_recipe):
    with pytest.raises(ConfigError, match=r"data\.batch 1: conv1\.bn is a BatchNorm"):
        plan_run(load_config(write_recipe(), ["data.batch=1"]))


def test_half_precision_needs_less_memory_and_shards_divide_theirs(write_recipe):
    plain = load_config(write_recipe(), ["data.batch=32"])
    full = plan_run(plain).memory
    half = plan_run(plain.model_copy(update={"precision": "bf16"})).memory
    assert 0.6 * full < half < 0.9 * full  # activations of BatchNorm and the weights stay float32
    sharded = plan_run(load_config(write_recipe(losses=[{"kind": "partial_fc"}])))
    assert sharded.head_parameters == 8 * 512
    with torch.no_grad():
        one, two = (
            estimate_memory(
                plain.model_copy(update={"losses": (PartialFCLoss(kind="partial_fc", rate=0.1),)}),
                load_network(plain.model),
                0,
                identities=1_000_000,
                processes=processes,
                autocast=None,
            )
            for processes in (1, 2)
        )
    assert one > 2 * 1_000_000 * 512 * 4
    assert two < 0.6 * one


def test_a_bundle_that_was_restored_before_is_a_note_in_plan_and_run(write_recipe, tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    torch.onnx.export(
        nn.Sequential(*layers, nn.Linear(8, 16)).eval(),
        (torch.zeros(1, 3, 32, 16),),
        tmp_path / "fused.onnx",
        dynamo=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    restored = onnx2torch(
        tmp_path / "fused.onnx", tmp_path / "m.rtool", restore_bn=True, calibrate=[torch.rand(64, 3, 32, 16)]
    )
    assert len(restored.restored.restored) == 1
    config = write_recipe(model={"reference": str(tmp_path / "m.rtool"), "restore_bn": True})
    assert any("1 BatchNorms restored before" in note for note in plan_run(load_config(config)).notes)
    result = finetune(config, quiet=True)
    assert result.finished
    assert "1 BatchNorms restored before" in (result.run_dir / "log.txt").read_text()


def test_a_network_without_a_lost_batchnorm_is_refused_by_the_plan_as_by_the_run(write_recipe, tiny_model):
    config = write_recipe(model={**tiny_model, "restore_bn": True})
    for start in (lambda: plan_run(load_config(config)), lambda: finetune(config, quiet=True)):
        with pytest.raises(ConfigError, match="no layer that lost one"):
            start()


def test_a_preprocessing_that_the_model_cannot_have_is_refused_by_the_plan(write_recipe, tiny_model):
    with pytest.raises(InputError, match="fixed input of 32x16"):
        plan_run(load_config(write_recipe(model={**tiny_model, "size": None, "preprocessing": "imagenet,size=64x64"})))
    with pytest.raises(ConfigError, match=r"model\.preprocessing.*no such file and no known name"):
        load_config(write_recipe(model={**tiny_model, "preprocessing": "imagenett"}))
    plan = plan_run(load_config(write_recipe(model={**tiny_model, "preprocessing": "arcface-bgr"})))
    assert plan.preprocessing.startswith("32x16, 3 channels (bgr), mean [127.5")
    assert plan.preprocessing.endswith("(given: arcface-bgr)")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "id1" / "0.png").write_bytes(b"no image"), "images cannot be read"),
        (lambda root: shutil.copy(root / "id1" / "0.png", root / "id2" / "x.png"), "same image under two identities"),
    ],
)
def test_images_that_would_stop_the_run_are_found_by_the_plan(write_recipe, tmp_path, damage, message):
    root = tmp_path / "people"
    for person in range(4):
        (root / f"id{person}").mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng([person, number]).integers(0, 256, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"id{person}" / f"{number}.png")
    recipe = load_config(write_recipe(), [f"data.train={root}", "evaluation=null", "data.batch=8"])
    plan_run(recipe)
    damage(root)
    with pytest.raises(DataError, match=message):
        plan_run(recipe)
