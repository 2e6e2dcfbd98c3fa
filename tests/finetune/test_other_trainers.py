"""What docs/other-trainers.md promises: its lines run, and an example of arcface_torch trains an ONNX backbone."""

import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import rtool
from rtool.cli.main import run
from rtool.finetune.data.formats.recordio import Record, pack_record, write_records
from rtool.finetune.runs.run_folder import read_metrics

PAGE = (Path(rtool.__file__).parent / "docs" / "other-trainers.md").read_text()
EXAMPLE = """
from easydict import EasyDict as edict

# make training faster
config = edict()
config.margin_list = (1.0, 0.5, 0.0)
config.network = "r50"
config.resume = False
config.output = None
config.embedding_size = 512
config.sample_rate = 1.0
config.fp16 = True
config.momentum = 0.9
config.weight_decay = 5e-4
config.batch_size = 8
config.lr = 0.02
config.verbose = 3
config.dali = False
config.num_workers = 0

config.rec = "REC"
config.num_classes = 8
config.num_image = 64
config.num_epoch = 1
config.warmup_epoch = 0
config.val_targets = ["lfw", "cfp_fp"]
"""
"""A configuration as arcface_torch's own, for eight people in the place of 93,431."""


class Block(nn.Module):
    """A residual block as an iresnet's, at a stride of 4."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(outputs), nn.PReLU(outputs)
        self.conv2, self.bn3 = nn.Conv2d(outputs, outputs, 3, 4, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 4, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x)))))) + self.downsample(x)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    """A small network as an iresnet, its BatchNorms fused by the exporter."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 4, 3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.PReLU(4)]
    network = nn.Sequential(*stem, Block(4, 8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 49, 32))
    path = tmp_path_factory.mktemp("backbone") / "backbone.onnx"
    axes = {"input": {0: "batch"}}
    images = torch.zeros(1, 3, 112, 112)
    torch.onnx.export(network.eval(), (images,), path, dynamo=False, input_names=["input"], dynamic_axes=axes)
    return path


def test_two_lines_replace_a_wrapper_in_a_script_of_ones_own(backbone, tmp_path, monkeypatch):
    loading, training = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(loading.splitlines()) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backbone.onnx").write_bytes(backbone.read_bytes())
    images = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    names = {"torch": torch, "images": images, "labels": torch.arange(4)}
    exec(loading, names)
    module = names["backbone"]
    session = onnxruntime.InferenceSession(str(backbone))
    with torch.no_grad():
        got = module.eval()(images).numpy()
    np.testing.assert_allclose(got, session.run(None, {"input": images.numpy()})[0], rtol=1e-4, atol=1e-5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    exec(training, names)
    after = torch.load("backbone.pt", weights_only=True)
    assert before.keys() == after.keys()
    trained = dict(module.named_parameters())
    assert all(parameter.grad is not None for parameter in trained.values())
    assert all(not torch.equal(before[name], after[name]) for name in trained)
    norm = torch.stack([parameter.grad.norm() for parameter in trained.values()]).norm()
    assert norm <= 5 * (1 + 1e-5)


def face(person: int, number: int) -> bytes:
    noise = np.random.default_rng([person, number]).normal(0, 20, (112, 112, 3))
    pixels = np.clip(np.random.default_rng(person).uniform(0, 255, 3) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def records(tmp_path) -> Path:
    """`train.rec` and two `.bin` files, as arcface_torch has them in one folder."""
    folder = tmp_path / "faces"
    folder.mkdir()
    images = [(float(person), face(person, number)) for person in range(8) for number in range(8)]
    payloads = [(key, pack_record(Record((label,), key, image))) for key, (label, image) in enumerate(images, 1)]
    write_records(folder / "train.rec", payloads)
    for name, shift in (("lfw", 100), ("cfp_fp", 200)):
        pairs = [(n % 5 + shift, n % 5 + shift + n % 2) for n in range(20)]
        faces = [face(person, 10 * n + side) for n, pair in enumerate(pairs) for side, person in enumerate(pair)]
        (folder / f"{name}.bin").write_bytes(pickle.dumps((faces, [a == b for a, b in pairs])))
    return folder


@pytest.mark.slow
def test_the_example_of_arcface_torch_trains_an_onnx_backbone_under_torchrun(backbone, records, tmp_path, capsys):
    (tmp_path / "faces.py").write_text(EXAMPLE.replace("REC", str(records)))
    assert run(["config", "convert", str(tmp_path / "faces.py"), "-o", str(tmp_path / "faces.yaml")]) == 0
    assert "evaluation.every_steps" in capsys.readouterr().out
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--local-addr"]
    command = [*torchrun, "127.0.0.1", "-m", "rtool", "finetune", str(tmp_path / "faces.yaml")]
    command += [f"model.reference={backbone}", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.splitlines()[-1]
    assert folder.parent == tmp_path / "work_dirs" / "faces"
    rows = [row for row in read_metrics(folder) if row["kind"] == "evaluation"]
    assert [row["step"] for row in rows] == [3, 4]
    for row in rows:
        assert row["mean.accuracy"] == pytest.approx((row["lfw.accuracy"] + row["cfp_fp.accuracy"]) / 2)
    assert (folder / "checkpoints" / "best.rtool").exists()
