"""What cannot be trained, through `rtool finetune`: exit code 2, one message that says what to do, no traceback."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rtool.cli.main import run
from rtool.finetune.data.formats.recordio import Record, pack_record, write_records
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import load_training_state
from rtool.finetune.runs.run_folder import run_locked


@pytest.fixture
def recipe(write_recipe) -> Path:
    return write_recipe()


def refuse(recipe: Path, capsys, *changes: str, mentioned: tuple[str, ...]) -> None:
    code = run(["finetune", str(recipe), "-q", *changes])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert "Traceback" not in printed.err
    assert printed.err.count("Error") == 1
    for text in mentioned:
        assert text in printed.err
    assert not list(recipe.parent.glob("runs/*/*/checkpoints/*"))


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 16, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def records(path: Path, labels: list[float]) -> Path:
    payloads = [(k, pack_record(Record((label,), k, jpeg(k % 250)))) for k, label in enumerate(labels, 1)]
    write_records(path, payloads)
    return path


def image_folder(root: Path, identities: int, images: int) -> Path:
    for identity in range(identities):
        folder = root / f"p{identity}"
        folder.mkdir(parents=True)
        for number in range(images):
            (folder / f"{number}.jpg").write_bytes(jpeg(10 * identity + number))
    return root


def test_labels_with_gaps_are_trained_as_they_are(recipe, tmp_path):
    data = records(tmp_path / "gaps.rec", [3.0, 3.0, 900.0, 900.0, 17.0, 17.0, 5.0, 5.0])
    result = finetune(recipe, [f"data.train={data}"], quiet=True)
    assert result.steps == 1


def test_negative_labels(recipe, tmp_path, capsys):
    data = records(tmp_path / "negative.rec", [-1.0, 0.0, 1.0])
    refuse(recipe, capsys, f"data.train={data}", mentioned=("negative.rec", "record 1 has a negative label"))


def test_one_image_an_identity_makes_no_pair(recipe, tmp_path, capsys):
    data = image_folder(tmp_path / "single", identities=12, images=1)
    changes = [f"data.train={data}", "data.sampler=pk", "data.images_per_identity=2"]
    refuse(recipe, capsys, *changes, mentioned=("at least 2 images", "data.sampler=random"))


def test_a_batch_of_fewer_images_than_an_identity_has_in_it(recipe, capsys):
    changes = ["data.sampler=pk", "data.images_per_identity=4", "data.batch=2"]
    refuse(recipe, capsys, *changes, mentioned=("data.batch 2", "data.images_per_identity 4"))


def test_more_identities_in_a_batch_than_there_are(recipe, capsys):
    changes = ["data.sampler=pk", "data.images_per_identity=2", "data.batch=32"]
    refuse(recipe, capsys, *changes, mentioned=("16 identities", "got 8", "lower data.batch"))


def test_a_data_set_smaller_than_a_batch(recipe, capsys):
    refuse(recipe, capsys, "data.batch=33", mentioned=("32 training images", "lower data.batch"))


@pytest.mark.parametrize(
    ("dynamic", "mentioned"),
    [
        ({2: "height", 3: "width"}, ("file.onnx", "does not accept images of 64x32", "set model.size")),
        ({}, ("file.onnx", "has a fixed input of 32x16, got size 64x32")),
    ],
    ids=["by its last layer", "by the file"],
)
def test_an_image_size_that_does_not_fit_the_backbone(recipe, tmp_path, capsys, dynamic, mentioned):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.PReLU(4), nn.Flatten(), nn.Linear(4 * 16 * 8, 8))
    path = tmp_path / "file.onnx"
    axes = {"images": {0: "batch", **dynamic}}
    torch.onnx.export(
        module, (torch.zeros(1, 3, 32, 16),), path, dynamo=False, input_names=["images"], dynamic_axes=axes
    )
    refuse(recipe, capsys, f"model.reference={path}", "model.size=[64, 32]", mentioned=mentioned)


@pytest.mark.parametrize("device", ["cuda:7", "cuda:99", "tpu"])
def test_a_device_that_is_absent_is_never_replaced_by_the_processor(recipe, capsys, device):
    refuse(recipe, capsys, f"device={device}", "precision=fp16", mentioned=(device,))


class _Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("owned",)


def test_a_verification_set_that_would_run_code(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([_Malicious()], [True])))
    refuse(recipe, capsys, f"data.evaluate={tmp_path / 'lfw.bin'}", mentioned=("lfw.bin", "mkdir"))
    assert not (tmp_path / "owned").exists()


def test_a_record_file_cut_short(recipe, tmp_path, capsys):
    data = records(tmp_path / "short.rec", [0.0, 0.0, 1.0, 1.0])
    data.write_bytes(data.read_bytes()[:-100])
    refuse(recipe, capsys, f"data.train={data}", mentioned=("short.rec", "cut short", "copy it again"))


def test_a_run_that_has_done_its_epochs(recipe, capsys):
    first = finetune(recipe, quiet=True)
    result = (first.run_dir / "result.json").read_text()
    assert run(["finetune", str(recipe), "--resume", str(first.run_dir), "-q"]) == 2
    assert "has done 1 epochs of 1; raise epochs" in capsys.readouterr().err
    assert (first.run_dir / "result.json").read_text() == result


def test_two_runs_in_one_folder(recipe, capsys):
    first = finetune(recipe, ["epochs=1"], quiet=True).run_dir
    with run_locked(first):
        code = run(["finetune", str(recipe), "epochs=2", "--resume", str(first), "-q"])
    assert code == 2
    assert "another run is writing here" in capsys.readouterr().err


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from rtool.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("epochs=2", id="weights", marks=pytest.mark.slow),
        pytest.param("losses.0={kind: partial_fc}", id="shards", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_is_full_leaves_the_checkpoint_before_and_nothing_half_written(write_recipe, change):
    recipe = write_recipe(model={"reference": "osnet_x0_25", "size": [32, 16]})  # 1 MB, five times what LIMITED allows
    options = ["epochs=1", "losses.0={kind: partial_fc}"] if "partial_fc" in change else ["epochs=1"]
    first = finetune(recipe, options, quiet=True)
    before = {path: path.read_bytes() for path in first.last.rglob("*") if path.is_file()}
    command = ["finetune", str(recipe), *options, "epochs=2", "--resume", str(first.run_dir), "-q"]
    done = subprocess.run([sys.executable, "-c", LIMITED, *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "size limit" in done.stderr
    assert "--resume auto" in done.stderr
    assert "Traceback" not in done.stderr
    checkpoints = first.run_dir / "checkpoints"
    assert (checkpoints / "last.rtool").resolve() == first.last
    assert {path: path.read_bytes() for path in before} == before
    assert not list(checkpoints.glob(".*.partial"))
    # with space again, it continues from there
    resumed = finetune(recipe, [*options, "epochs=2"], resume=first.run_dir, quiet=True)
    assert resumed.finished
    assert load_training_state(resumed.last)[0].epoch == 2


def test_a_batch_of_one_image_with_a_batchnorm(recipe, capsys):
    refuse(recipe, capsys, "data.batch=1", mentioned=("data.batch 1: conv1.bn is a BatchNorm", "data.batch=2"))


def test_an_output_that_cannot_be_made(recipe, capsys, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "runs")
    (tmp_path / "file").touch()
    for output in (tmp_path / "dangling", tmp_path / "file"):
        refuse(recipe, capsys, f"output={output}", mentioned=("cannot create the run folder", "set output=DIR"))


@pytest.mark.parametrize("name", ["..", ".", "-x"])
def test_a_name_that_leads_out_of_the_output(recipe, capsys, name):
    refuse(recipe, capsys, f"name={name}", mentioned=("'name'",))
