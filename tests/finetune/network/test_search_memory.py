"""The memory that a plan states for a search is what a step of it takes."""

import json
import os
import subprocess
import sys

import pytest

STEP = """
import json, sys, torch
from rtool.finetune.config.files import parse_config
from rtool.finetune.network.memory_estimate import estimate_memory
from rtool.finetune.network.search_backbone import open_network

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def step(images):
    module(images).square().mean().backward()
    optimizer.step()

config = parse_config({
    "model": {"reference": "searched", "size": [128, 64]},
    "data": {"train": "synthetic-people:identities=4,images=4", "batch": 16},
    "losses": [{"kind": "softmax"}],
    "optimizer": {"kind": "sgd"},
    "search": {"method": sys.argv[1]},
}, "test")
torch.manual_seed(0)
network = open_network(config)
module = network.module.train()
stated = estimate_memory(config, network, 0, identities=4, processes=1, autocast=None)
optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
images = torch.randn(16, 3, 128, 64)
module.train()
step(images[:2])  # what kernels and threads keep for themselves
held = 4 * 3 * sum(each.numel() for each in module.parameters())  # weights, gradients and momentum, made above
before = int(open("/proc/self/statm").read().split()[1]) * 4096
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here on
step(images)
print(json.dumps({"stated": stated, "taken": held + peak() - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("method", ["mixed", "partial"])
def test_a_step_takes_the_memory_that_the_plan_states(method):
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STEP, method]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **own})
    found = json.loads(done.stdout)
    assert found["stated"] == pytest.approx(found["taken"], rel=0.15)
