"""On a machine with a GPU: `make test-gpu`. The same promises as on the processor, where CUDA could break them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rtool import export, onnx2torch
from rtool.benchmarks import parity
from rtool.converters import onnx_to_torch
from rtool.finetune.finetuning import finetune
from rtool.finetune.losses.partial_fc import PartialFC

pytestmark = pytest.mark.gpu

TINY = {
    "name": "tiny",
    "epochs": 2,
    "device": "cuda",
    "model": {"reference": "osnet_x0_25", "size": [64, 32]},
    "data": {
        "train": "synthetic-people:identities=16,images=8,seed=1,size=64x32",
        "evaluate": "synthetic-people:identities=8,images=8,seed=2,size=64x32",
        "batch": 32,
    },
    "losses": [{"kind": "arcface", "scale": 16}],
    "tracking": {"tensorboard": False},
}


@pytest.fixture
def write(tmp_path):
    def recipe(**changes: object):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**TINY, **changes, "output": str(tmp_path / "runs")}))
        return path

    return recipe


def losses(run_dir: Path) -> list[float]:
    """Of each logged step, all parts together; none of steps left out while the loss scale was too high."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    return [sum(step["losses"].values()) for step in steps if None not in step["losses"].values()]


def test_there_is_a_gpu():
    assert torch.cuda.is_available()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_in_every_precision(write, precision):
    result = finetune(write(precision=precision, epochs=6), quiet=True)  # fp16 needs some steps to find its scale
    seen = losses(result.run_dir)
    assert np.isfinite(seen).all()
    assert seen[-1] < seen[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {**TINY["model"], "compile": True}},
        {"optimizer": {"kind": "adamw", "lr": 1e-3, "ema": 0.9, "accumulate": 2, "clip": 1.0}},
        {"losses": [{"kind": "partial_fc", "rate": 0.5}], "precision": "fp16"},
        {"losses": [{"kind": "adaface"}, {"kind": "triplet"}, {"kind": "center", "weight": 5e-4}], "precision": "bf16",
         "data": {**TINY["data"], "sampler": "pk"}},
        {"data": {**TINY["data"], "workers": 2, "memory_gb": 0}},
    ],
    ids=["compile", "average and accumulation", "partial_fc", "three losses", "workers"],
)  # fmt: skip
def test_options_work_on_a_gpu(write, changes):
    result = finetune(write(**changes), quiet=True)
    assert np.isfinite(losses(result.run_dir)).all()


def test_sigterm_saves_on_a_gpu_and_the_run_goes_on(write, tmp_path):
    path = write(
        epochs=60, precision="fp16", evaluation={"every": 60}, optimizer={"kind": "adamw", "lr": 1e-3, "ema": 0.9}
    )
    command = [sys.executable, "-m", "rtool", "finetune", str(path), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("tiny/*/checkpoints/step-*")) and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()[-3000:]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    result = finetune(path, resume="auto", quiet=True)
    assert result.finished
    seen = losses(result.run_dir)
    assert np.isfinite(seen).all()
    assert seen[-1] < 0.7 * seen[0]


def test_torchrun_with_nccl(write, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "rtool"]
    done = subprocess.run(
        [*command, "finetune", str(write()), "--quiet"], capture_output=True, text=True, timeout=240, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run_dir,) = (tmp_path / "runs" / "tiny").iterdir()
    assert json.loads((run_dir / "result.json").read_text())["finished"]


def test_partial_fc_agrees_with_the_processor():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(16, 64), torch.randint(0, 50, (16,))
    here = PartialFC(64, 50, rate=1.0)
    there = PartialFC(64, 50, rate=1.0, device=torch.device("cuda"))
    results = []
    for head, device in ((here, "cpu"), (there, "cuda")):
        e = embeddings.to(device).detach().requires_grad_()
        loss = head(e, labels.to(device))
        loss.backward()
        head.step(0.1)
        results.append((loss.detach().cpu(), e.grad.cpu(), head.weight.detach().cpu()))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_converted_network_computes_on_a_gpu_what_it_computes_on_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = "examples/models/osnet_x0_25_synthetic.onnx"
    module = onnx_to_torch(model).eval()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 3, 128, 64)).astype(np.float32))
    with torch.inference_mode():
        expected = module(images)
        got = module.cuda()(images.cuda()).cpu()
    assert float((got - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("kind", ["float32", "float16", "bundle"])
def test_parity_of_a_model_on_the_gpu_with_the_processor(kind, tmp_path):
    """ONNX Runtime's convolutions use TF32 by default, which has float16's mantissa."""
    source = "examples/models/osnet_x0_25_synthetic.onnx"
    candidate = source
    if kind == "float16":
        candidate = export(source, tmp_path / "half.onnx", fp16=True).path
    elif kind == "bundle":
        candidate = tmp_path / "model.rtool"
        onnx2torch(source, candidate)
    report = parity(source, candidate, batch=16, max_rel=None, min_cosine=0.9999, device="cuda")
    assert report.passed, report.parity
