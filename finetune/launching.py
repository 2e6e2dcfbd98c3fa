"""Several processes for one run: start them through torchrun's launcher, and join the group inside each.

`launch` is `torchrun --nproc-per-node N -m rtool.finetune.worker ...` on this machine's loopback and a free port.
Under a torchrun that somebody else started, `joined_group` alone does its work.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from .. import errors
from ..errors import PlatformError, RtoolError
from .interruption import handlers_put_back

__all__ = [
    "check_launcher",
    "count_processes",
    "end_with_parent",
    "is_first_rank",
    "joined_group",
    "launch",
    "report_failure",
    "resolve_device",
    "under_torchrun",
]

_FAILURE = ".failure.json"
_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""
_TIME_TO_SAVE = 600
"""Seconds that processes have, once told to stop, to end their step or evaluation and save; then they are killed."""


def count_processes(nproc: int | str, device: str) -> int:
    """Processes to start: the number, or for "auto" one a GPU, or one for every two cores without a GPU."""
    if nproc != "auto":
        return int(nproc)
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, len(os.sched_getaffinity(0)) // 2)


def resolve_device(device: str) -> torch.device:
    """The device of this process.

    Raises:
        PlatformError: a GPU was asked for and is absent. The CPU is never taken instead.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if under_torchrun() else 0
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if available else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise PlatformError(f"device '{device}': expected auto, cpu, cuda or cuda:N")
    index = int(number) if number else local_rank
    if index >= available:
        raise PlatformError(
            f"device {device}: GPU {index} was asked for and this machine has {available}; use device=cpu, or fewer "
            "processes"
        )
    return torch.device("cuda", index)


def under_torchrun() -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_first_rank() -> bool:
    """Whether this process speaks for its run: the only one, or rank 0; also outside the group."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def check_launcher() -> None:
    """Refuse to be one of several copies that know nothing of each other, each of which would train alone.

    Raises:
        PlatformError: srun or mpirun started several processes without the variables of torchrun.
    """
    if under_torchrun():
        return
    for variable, launcher in (("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")):
        if int(os.environ.get(variable, "1")) > 1:
            raise PlatformError(
                f"{launcher} started {os.environ[variable]} processes, each of which would train alone; start one a "
                "node and let it be torchrun: see the end of rtool finetune --help"
            )


@contextmanager
def joined_group(device: torch.device) -> Iterator[None]:
    """Be a member of the process group within the context: NCCL on GPUs, else gloo. Nothing in a single process."""
    if not under_torchrun():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        gc.collect()  # DDP keeps the group alive in cycles, and its threads abort an interpreter that ends before them
        dist.destroy_process_group()


def launch(nproc: int, run: Path, arguments: Sequence[str]) -> None:
    """Run `rtool.finetune.worker` with `arguments` in `nproc` processes and wait for them.

    Raises:
        RtoolError: what the failing process reported, of its own class.
        PlatformError: a process died without a word.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    (run / _FAILURE).unlink(missing_ok=True)
    threads = max(1, len(os.sched_getaffinity(0)) // nproc)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=run.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
        shutdown_timeout=_TIME_TO_SAVE,
        logs_specs=DefaultLogsSpecs(),
    )
    # The launcher reports every stopped process; what went wrong is in the error raised below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    environment = _environment(OMP_NUM_THREADS=str(threads), GLOO_SOCKET_IFNAME="lo", TORCH_CPP_LOG_LEVEL="ERROR")
    with environment, handlers_put_back():
        try:
            elastic_launch(config, sys.executable)("-m", "rtool.finetune.worker", *arguments)
        except ChildFailedError as error:
            raise _reported_failure(run, error) from error
        except SignalException:
            return  # the workers have saved and stopped


def end_with_parent() -> None:
    """Have this process killed when the one that started it dies, however that dies (Linux; nothing elsewhere).

    torchrun's launcher cannot stop its workers when it is killed with signal 9. They would train on, unseen, and hold
    the run folder.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)


def report_failure(run: Path, error: RtoolError) -> None:
    """Leave an error where `launch` in the parent process finds it; the first one counts."""
    path = run / _FAILURE
    if path.exists():
        return
    try:
        path.write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}), encoding="utf-8")
    except OSError:  # no space for it either
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the parent then points at the output above


def _reported_failure(run: Path, cause: BaseException) -> RtoolError:
    path = run / _FAILURE
    if not path.exists():
        return PlatformError(f"{run}: a training process died; see its output above ({cause.__class__.__name__})")
    report = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    kind = getattr(errors, report["kind"], PlatformError)
    error: RtoolError = kind(report["message"])
    return error


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for child processes; those the user has set stay."""
    added = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
