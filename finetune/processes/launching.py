"""Several processes for one run: start them through torchrun's launcher, and join the group inside each.

`launch` does what `torchrun --nproc-per-node N -m rtool.finetune.worker ...` does, on the loopback interface and a free
port. Under a torchrun that the user started, only `joined_group` is needed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ... import errors
from ...errors import PlatformError, RtoolError
from .interruption import handlers_put_back

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

__all__ = [
    "check_launcher",
    "count_processes",
    "failure_reported",
    "is_first_rank",
    "joined_group",
    "launch",
    "resolve_device",
    "under_torchrun",
]

_FAILURE = ".failure.json"
_PATIENCE = timedelta(hours=4)
"""How long a rank waits for another: only rank 0 evaluates and writes. If a rank dies, the others end sooner."""
_TIME_TO_SAVE = 600
"""Seconds that processes have after a stop signal to end their step or evaluation and save; then they are killed."""


def count_processes(nproc: int | str, device: str) -> int:
    """Number of processes to start: `nproc` itself, or for "auto" one per GPU, or one per two cores without a GPU."""
    if nproc != "auto":
        return int(nproc)
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, len(os.sched_getaffinity(0)) // 2)


def resolve_device(device: str, *, processes: int | None = None) -> torch.device:
    """The device of this process: the CPU, or the GPU that the launcher's variables give it.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        processes: Processes of the run; by default as many as the launcher started.

    Raises:
        PlatformError: the GPU is absent, is shared by several processes, or cannot be determined for this process. The
            CPU is never used instead.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if available else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise PlatformError(f"device '{device}': expected auto, cpu, cuda or cuda:N")
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    if number and processes > 1:
        raise PlatformError(
            f"device {device}: {processes} processes would share one GPU; use device=cuda, which gives each its own"
        )
    index = int(number) if number else _local_rank(available)
    if index >= available:
        raise PlatformError(
            f"device {device}: GPU {index} was asked for and this machine has {available}; use device=cpu, or fewer "
            "processes"
        )
    return torch.device("cuda", index)


def _local_rank(gpus: int) -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    if not under_torchrun():
        return 0
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]) % int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus > 1:
        raise PlatformError(
            f"device cuda: RANK is set and LOCAL_RANK is not, so which of {gpus} GPUs is this process's is unknown; "
            "set LOCAL_RANK or LOCAL_WORLD_SIZE, or start one torchrun per machine"
        )
    return 0


def under_torchrun() -> bool:
    """Whether a launcher has started this process as one of several (WORLD_SIZE and RANK are set)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_first_rank() -> bool:
    """Whether this process reports for its run: the only one, or rank 0; also works outside the process group."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def check_launcher() -> None:
    """Refuse to run as one of several copies that do not know each other, each of which would train alone.

    Raises:
        PlatformError: srun or mpirun started several processes without the variables of torchrun.
    """
    if under_torchrun():
        return
    for variable, launcher in (("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")):
        if int(os.environ.get(variable, "1")) > 1:
            raise PlatformError(
                f"{launcher} started {os.environ[variable]} processes, each of which would train alone; start one "
                "torchrun per node: see the end of rtool finetune --help"
            )


@contextmanager
def joined_group(device: torch.device) -> Iterator[None]:
    """Join the process group within the context: NCCL on GPUs, else gloo. A single process needs none."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collectives of objects and new contexts would all go to GPU 0
    if not under_torchrun():
        yield
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE, device_id=device if on_gpu else None)
    try:
        yield
    except BaseException:
        if not on_gpu:  # NCCL waits for other ranks, which may wait for this one; the process ends anyway
            _leave_group()
        raise
    _leave_group()


def _leave_group() -> None:
    gc.collect()  # DDP keeps the group alive in cycles, and its threads abort an interpreter that ends before them
    dist.destroy_process_group()


@contextmanager
def failure_reported(run: Path) -> Iterator[None]:
    """Write an error of this worker down for `launch`, before it leaves the group and so ends the other ranks."""
    try:
        yield
    except RtoolError as error:
        if under_torchrun():
            _report_failure(run, error)
        raise


def launch(nproc: int, run: Path, arguments: Sequence[str]) -> None:
    """Run `rtool.finetune.worker` with `arguments` in `nproc` processes and wait for them.

    Raises:
        RtoolError: the error that the failing process reported, with its class and message.
        PlatformError: a process died without reporting an error.
        KeyboardInterrupt: Ctrl-C came before the processes could save.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    (run / _FAILURE).unlink(missing_ok=True)  # the run is locked, so this is of an earlier one
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
    for name in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    environment = _environment(OMP_NUM_THREADS=str(threads), GLOO_SOCKET_IFNAME="lo", TORCH_CPP_LOG_LEVEL="ERROR")
    with environment, handlers_put_back():
        try:
            elastic_launch(config, sys.executable)("-m", "rtool.finetune.worker", *arguments)
        except ChildFailedError as error:
            raise _reported_failure(run, error) from error
        except SignalException as stopped:
            # The workers have saved and stopped, unless they had no time to.
            if stopped.sigval == signal.SIGINT and not (run / "result.json").exists():
                raise KeyboardInterrupt from stopped


def _report_failure(run: Path, error: RtoolError) -> None:
    """Write an error where `launch` in the parent process finds it; only the first is kept."""
    path = run / _FAILURE
    if path.exists():
        return
    try:
        path.write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}), encoding="utf-8")
    except OSError:  # the disk may be full
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the parent then points at the output above


def _reported_failure(run: Path, cause: ChildFailedError) -> RtoolError:
    path = run / _FAILURE
    if not path.exists():
        rank, failure = cause.get_first_failure()
        if failure.exitcode >= 0:
            return PlatformError(f"{run}: training process {rank} ended with {failure.exitcode}; see its output above")
        name = signal.Signals(-failure.exitcode).name
        reason = "; the machine may be out of memory" if name == "SIGKILL" else ""
        return PlatformError(
            f"{run}: training process {rank} was ended by {name}{reason}; --resume auto continues from the last "
            "checkpoint"
        )
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
