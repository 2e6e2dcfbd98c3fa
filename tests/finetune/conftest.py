"""A network and runs of a second, and the programs of `rank_programs` in several processes over gloo on loopback."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn

from rtool.converters.bundles.onnx_to_bundle import onnx2torch

from .small_runs import written

PROGRAMS = Path(__file__).with_name("rank_programs.py")

RUN = {
    "name": "tiny",
    "epochs": 1,
    "data": {
        "train": "synthetic-people:identities=8,images=4,seed=1,size=32x16",
        "evaluate": "synthetic-people:identities=4,images=8,seed=2,size=32x16",
        "batch": 8,
    },
    "losses": [{"kind": "arcface", "scale": 16}],
    "tracking": {"tensorboard": False},
}
"""A run of a second: all but the network."""


class TinyNetwork(nn.Module):
    """Layers of every kind that training treats in its own way, named as OSNet's: 32x16 pixels to 16 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential()
        self.conv1.conv, self.conv1.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv5 = nn.Sequential()
        self.conv5.conv, self.conv5.bn = nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv5(torch.relu(self.conv1(images)))).mean((2, 3)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> dict[str, object]:
    """`model` of a configuration: `TinyNetwork`, as a bundle, in which a checkpoint costs a tenth of OSNet's."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    torch.onnx.export(
        TinyNetwork().eval(),
        (torch.zeros(1, 3, 32, 16),),
        folder / "tiny.onnx",
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,  # which leaves the BatchNorms as they are
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    onnx2torch(folder / "tiny.onnx", folder / "tiny.rtool")
    return {"reference": str(folder / "tiny.rtool"), "size": [32, 16]}


@pytest.fixture(scope="session")
def tiny(tiny_model) -> dict[str, object]:
    """The configuration of a run of a second."""
    return {**RUN, "model": tiny_model}


@pytest.fixture
def write_recipe(tmp_path, tiny):
    """Writes the tiny configuration, with some fields changed; its runs go beside it."""

    def write(**changes: object) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**tiny, **changes, "output": str(tmp_path / "runs")}))
        return path

    return write


@pytest.fixture
def config(tmp_path, tiny_model) -> Path:
    """The configuration of a run of seconds with several losses, `small_runs.BASE`."""
    return written(tmp_path, tiny_model)


def run_alone(name: str) -> dict[str, torch.Tensor]:
    """The program in this process, as the only member of a group."""
    spec = importlib.util.spec_from_file_location("rank_programs", PROGRAMS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return module.PROGRAMS[name]()
    finally:
        dist.destroy_process_group()


def run_together(world: int, folder: Path) -> None:
    """Every program in so many processes: one start, which imports torch and then forks the other ranks.

    A start costs more than all the programs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(world),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(PROGRAMS), str(folder)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as ranks:
        try:
            errors = ranks.communicate(timeout=120)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(ranks.pid, signal.SIGKILL)
    assert ranks.returncode == 0, errors


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """`run_ranks(program, world)`: what rank 0 of `world` processes made of a program of `rank_programs`."""
    folders: dict[int, Path] = {}

    def run(name: str, world: int) -> dict[str, torch.Tensor]:
        if world == 1:
            return run_alone(name)
        if world not in folders:
            folder = tmp_path_factory.mktemp(f"ranks-{world}")
            run_together(world, folder)
            folders[world] = folder
        return torch.load(folders[world] / f"{name}.pt")

    return run
