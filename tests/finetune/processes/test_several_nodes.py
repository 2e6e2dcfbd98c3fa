"""Several nodes as far as one machine allows: two torchrun agents, and two plain processes as a cluster starts them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rtool.errors import PlatformError
from rtool.finetune.processes.launching import check_launcher


@pytest.fixture
def recipe(write_recipe) -> Path:
    return write_recipe(threads=1, losses=[{"kind": "partial_fc", "rate": 0.5, "scale": 16}])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def run_both(commands: list[list[str]], environments: list[dict[str, str]]) -> list[str]:
    """The standard output of both, which must end well."""
    base = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command, env={**base, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    try:
        ended = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors for _, errors in ended)
    return [output for output, _ in ended]


def check_one_run(recipe: Path, outputs: list[str]) -> None:
    """Both took part in one run in one folder, and rank 0 alone wrote and printed."""
    (folder,) = (recipe.parent / "runs" / "tiny").iterdir()
    assert json.loads((folder / "env.json").read_text())["processes"] == 2
    assert json.loads((folder / "result.json").read_text())["finished"]
    assert len(list((folder / "checkpoints" / "last.rtool").glob("shard-*"))) == 2
    assert [line for output in outputs for line in output.splitlines()] == [str(folder)]


@pytest.mark.slow
def test_two_torchrun_agents_are_one_run(recipe):
    endpoint = f"127.0.0.1:{free_port()}"
    agent = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint {endpoint} --rdzv-id job"
    agent += f" --local-addr 127.0.0.1 -m rtool finetune {recipe} -q"
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    commands = [[*torchrun, "--node-rank", str(node), *agent.split()] for node in range(2)]
    check_one_run(recipe, run_both(commands, [{}, {}]))


@pytest.mark.slow
def test_two_processes_that_a_cluster_gave_their_ranks_are_one_run(recipe):
    port = str(free_port())
    environments = [
        {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for rank in range(2)
    ]
    command = [sys.executable, "-m", "rtool", "finetune", str(recipe), "-q"]
    check_one_run(recipe, run_both([command, command], environments))


@pytest.mark.parametrize(
    ("variable", "launcher"), [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")]
)
def test_copies_that_know_nothing_of_each_other_are_refused(monkeypatch, variable, launcher):
    monkeypatch.setenv(variable, "8")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(PlatformError, match=f"{launcher} started 8 processes"):
        check_launcher()
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    check_launcher()
