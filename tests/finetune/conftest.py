"""Start the programs of `rank_programs` in several processes over gloo on loopback."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml

PROGRAMS = Path(__file__).with_name("rank_programs.py")

TINY = {
    "name": "tiny",
    "epochs": 1,
    "model": {"reference": "osnet_x0_25", "size": [32, 16]},
    "data": {
        "train": "synthetic-people:identities=8,images=4,seed=1,size=32x16",
        "evaluate": "synthetic-people:identities=4,images=8,seed=2,size=32x16",
        "batch": 8,
    },
    "losses": [{"kind": "arcface", "scale": 16}],
    "tracking": {"tensorboard": False},
}
"""A run of seconds."""


@pytest.fixture(scope="session")
def tiny() -> dict[str, object]:
    """The configuration of a run of seconds."""
    return TINY


@pytest.fixture
def write_recipe(tmp_path):
    """Writes the tiny configuration, with some fields changed; its runs go beside it."""

    def write(**changes: object) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**TINY, **changes, "output": str(tmp_path / "runs")}))
        return path

    return write


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


@pytest.fixture
def run_ranks(tmp_path):
    def run(name: str, world: int) -> dict[str, torch.Tensor]:
        if world == 1:
            return run_alone(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        output = tmp_path / f"{name}-{world}.pt"
        processes = []
        for rank in range(world):
            environment = {
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "WORLD_SIZE": str(world),
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, str(PROGRAMS), name, str(output)]
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        errors = []
        try:
            errors = [process.communicate(timeout=120)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert all(process.returncode == 0 for process in processes), "\n".join(errors)
        return torch.load(output)

    return run
