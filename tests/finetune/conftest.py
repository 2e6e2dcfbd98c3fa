"""Start the programs of `rank_programs` in several processes over gloo on loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAMS = Path(__file__).with_name("rank_programs.py")


@pytest.fixture
def run_ranks(tmp_path):
    def run(name: str, world: int) -> dict[str, torch.Tensor]:
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
