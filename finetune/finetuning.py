"""Fine-tune: from a configuration to a run folder with checkpoints. The call behind `rtool finetune`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from ..converters.records.json_text import parse_json
from ..errors import ConfigError, GateError, InputError, PlatformError, RtoolError
from .config.config import FinetuneConfig
from .config.files import load_config
from .data.dataset import NOBODY, Dataset
from .distillation.panel import open_teachers
from .network.autocast import autocast_dtype
from .network.networks import Network, load_network, restore_batchnorms
from .processes.collectives import rank, world_size
from .processes.interruption import on_stop_signal
from .processes.launching import (
    check_launcher,
    count_processes,
    failure_reported,
    joined_group,
    launch,
    resolve_device,
    under_torchrun,
)
from .runs.disk_space import out_of_space_named
from .runs.gain import gain_facts, measured_gain
from .runs.progress_display import ProgressDisplay
from .runs.resuming import last_checkpoint, opened_run
from .runs.run_folder import RunFolder, read_metrics
from .runs.run_report import write_run_report
from .runs.tracking import open_trackers
from .search.finding import Found
from .search.report.page import write_search_report
from .search.running import run_search
from .training.contact_sheet import draw_batch
from .training.prepared_data import PreparedData, describe_data, prepare_data
from .training.training import Outcome, Trainer

__all__ = ["FinetuneResult", "finetune", "train_in_folder"]


@dataclass(frozen=True)
class FinetuneResult:
    """What a run left behind. `finished` is False if a signal stopped it; `resume="auto"` then continues it."""

    run_dir: Path
    best: Path | None
    last: Path
    finished: bool
    stopped_by: str | None
    """SIGTERM, SIGINT (Ctrl-C) or the error, if it did not finish."""
    epochs: int
    """Completed ones."""
    steps: int
    """Optimizer steps, skipped ones included."""
    skipped_steps: int
    """Those whose gradient was not finite."""
    metrics: dict[str, Any]
    """The last evaluation."""
    best_metric: float | None
    """The metric of the best checkpoint."""
    images_per_second: float
    """Of all processes, while training."""
    source_metrics: dict[str, Any] | None = None
    """The evaluation of the source model before the first step; None where `evaluation.first` is false."""
    gain: dict[str, Any] | None = None
    """`metric`, `before`, `after` and `difference`, of source model and best checkpoint; None where one of them was not
    measured."""
    weights: dict[str, Any] | None = None
    """What `model.weights` loaded, as `WeightMatch`; None without it, and of a resumed run, which has a checkpoint."""
    found: dict[str, Any] | None = None
    """What a search found, as `finetune.search.finding.Found`; None of other runs, and of one that was stopped."""

    def whole(self) -> FinetuneResult:
        """Return the result of a whole run, to a caller that goes on with it: half of one would look like it.

        Raises:
            KeyboardInterrupt: Ctrl-C stopped the run.
            SystemExit: something else did; exit code 143, that of SIGTERM.
        """
        if self.finished:
            return self
        if self.stopped_by == "SIGINT":
            raise KeyboardInterrupt
        sys.stderr.write(f"{self.run_dir}: stopped by {self.stopped_by}, and saved\n")
        raise SystemExit(128 + signal.SIGTERM)


def finetune(
    config: str | Path | FinetuneConfig,
    overrides: Sequence[str] = (),
    *,
    nproc: int | Literal["auto"] = 1,
    resume: Literal["auto"] | str | Path | None = None,
    resume_with: Sequence[str] = (),
    quiet: bool = False,
    progress: bool = True,
) -> FinetuneResult:
    """Train as a configuration says, and leave a run folder `output/name/time/`.

    Ctrl-C and SIGTERM let the step end, save a checkpoint and return a result that is not `finished`.

    Args:
        config: A YAML file, or a configuration.
        overrides: `key.path=value`, which change fields of the configuration.
        nproc: Processes on this machine, or "auto": one per GPU, or one per two cores without a GPU. Under torchrun,
            its processes are used instead.
        resume: A run folder to continue, or one of its checkpoints, or "auto": the newest unfinished run of this name,
            else a new one.
        resume_with: Changes since the run was stopped that are accepted: "data", "seed", "evaluation". Others are
            refused, and the best metric starts again.
        quiet: Print nothing; the log file has every line anyway.
        progress: Draw a bar where stderr is a terminal; without it, a line every `log_every` steps.

    Raises:
        ConfigError: wrong keys or values, or values that the resumed run cannot change.
        InputError: a model, data set or run folder that does not exist.
        DataError: data that cannot be trained on.
        PlatformError: a GPU that is absent, a full disk, a launcher that does not say which process this is.
        GateError: training diverged.
    """
    resolved = load_config(config, overrides)
    if resume_with and resume is None:
        raise ConfigError("--resume-with: says what may have changed in a resumed run; it needs --resume")
    check_launcher()
    processes = int(os.environ["WORLD_SIZE"]) if under_torchrun() else count_processes(nproc, resolved.device)
    resolve_device(resolved.device, processes=processes)
    resolved = resolved.on_processes(processes)
    if under_torchrun():
        return _finetune_as_rank(resolved, resume, resume_with, quiet=quiet, progress=progress)
    with opened_run(resolved, resume, describe_data, resume_with) as (run, checkpoint):
        try:
            if processes == 1:
                train_in_folder(resolved, run, checkpoint, quiet=quiet, progress=progress)
            else:
                arguments = [str(run)]
                if checkpoint is not None:
                    arguments += ["--checkpoint", str(checkpoint)]
                arguments += [flag for flag, wanted in (("--quiet", quiet), ("--no-progress", not progress)) if wanted]
                launch(processes, run, arguments)
        except KeyboardInterrupt:
            if not quiet:
                print(_how_to_continue(run), file=sys.stderr)  # noqa: T201 - on stderr, like progress
            raise
    return _read_result(run)


def train_in_folder(
    config: FinetuneConfig, run: Path, checkpoint: Path | None, *, quiet: bool = False, progress: bool = True
) -> None:
    """Train on this process, alone or as one rank, in an existing run folder; rank 0 writes `result.json`."""
    with failure_reported(run):
        device = resolve_device(config.device)
        # Reported inside the group too: leaving it ends the other ranks, whose own errors are not the cause.
        with joined_group(device), failure_reported(run):
            _train_in_group(config, run, checkpoint, device, quiet=quiet, progress=progress)


def _train_in_group(
    config: FinetuneConfig, run: Path, checkpoint: Path | None, device: torch.device, *, quiet: bool, progress: bool
) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if rank() == 0:
        display = ProgressDisplay(quiet=quiet, bar=None if progress else False)
        with out_of_space_named(run), RunFolder(run, display) as folder:
            _train(config, folder, run, checkpoint, device)
    else:
        with out_of_space_named(run):
            _train(config, None, run, checkpoint, device)


def _train(
    config: FinetuneConfig, folder: RunFolder | None, run: Path, checkpoint: Path | None, device: torch.device
) -> None:
    torch.manual_seed(config.seed)
    asked: list[str] = []
    # Until the first step Ctrl-C ends the run at once: there is nothing to save.
    with on_stop_signal(asked.append, (signal.SIGTERM,)), _convolutions_timed(device):
        if config.search is not None:

            def train(network: Network, data: PreparedData, trainer: Trainer) -> Outcome:
                return _run(config, folder, network, data, trainer, device, checkpoint, asked)

            done = run_search(config, config.search, folder, run, checkpoint, device, asked, train)
            if folder is not None:
                _conclude(folder, done.outcome, config, done.network, done.data, done.found)
            return
        network = load_network(config.model, checkpoint)
        teachers = None
        if config.distil is not None:
            teachers = open_teachers(config.distil, config.augment, network.preprocessing, device)
        data = prepare_data(config, network.preprocessing, None if teachers is None else teachers.views)
        if config.model.restore_bn and checkpoint is None:
            report = restore_batchnorms(network, data.train, config.model.calibration_images)
            data = replace(data, notes=(*data.notes, report))
        trainer = Trainer(config, network, data, folder, run / "checkpoints", device, teachers)
        outcome = _run(config, folder, network, data, trainer, device, checkpoint, asked)
        if folder is not None:
            _conclude(folder, outcome, config, network, data)


def _run(
    config: FinetuneConfig,
    folder: RunFolder | None,
    network: Network,
    data: PreparedData,
    trainer: Trainer,
    device: torch.device,
    checkpoint: Path | None,
    asked: list[str],
) -> Outcome:
    """Describe the run and train; a run that diverges is concluded before its error is raised."""
    if checkpoint is not None:
        trainer.resume(checkpoint)
    if folder is not None:
        folder.trackers.extend(
            open_trackers(config.tracking, folder.path, trainer.step, config.model_dump(mode="json"))
        )
        _describe(config, folder, network, data, trainer, device, checkpoint)
    try:
        return trainer.run(asked)
    except GateError as error:
        if folder is not None:
            _conclude(folder, trainer.outcome(str(error)), config, network, data)
        raise


@contextmanager
def _convolutions_timed(device: torch.device) -> Iterator[None]:
    """Let cuDNN choose each convolution's algorithm by timing, for batches have one size; not in deterministic mode."""
    before = torch.backends.cudnn.benchmark
    if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _conclude(
    folder: RunFolder,
    outcome: Outcome,
    config: FinetuneConfig,
    network: Network,
    data: PreparedData,
    found: Found | None = None,
) -> None:
    """Write result.json and report.html; evaluation and speed are read from the metrics, as an earlier start may have
    written them.
    """
    progress = outcome.progress
    evaluation, train = (_last_record(folder.path, kind) for kind in ("evaluation", "train"))
    result = {
        "finished": outcome.finished,
        "stopped_by": outcome.stopped_by,
        "epochs": progress.epoch,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "metrics": {key: value for key, value in evaluation.items() if key not in ("kind", "step", "epoch")},
        "best_metric": progress.best,
        "images_per_second": outcome.images_per_second or train.get("images_per_second", 0.0),
    }
    records, metric = read_metrics(folder.path), outcome.metric or ""  # a run that measures nothing has none
    facts = gain_facts(records, metric) | {"weights": None if network.weights is None else asdict(network.weights)}
    folder.write_result(result | facts | {"found": None if found is None else asdict(found)})
    if config.search is None:
        write_run_report(folder.path, result, metric, _sheet(folder, config, network, data))
    else:
        write_search_report(folder.path)
    gain = measured_gain(records, metric)
    if gain is not None:
        folder.log(f"source model -> best checkpoint: {gain}")


def _sheet(folder: RunFolder, config: FinetuneConfig, network: Network, data: PreparedData) -> Image.Image | None:
    """The images for the report; None and a line in the log if they fail, for a picture must not fail the run."""
    try:
        return draw_batch(config, data.train, network.preprocessing, ranks=world_size())
    except Exception as error:
        folder.log(f"note: report.html shows no training images: {error or type(error).__name__}")
        return None


def _last_record(run: Path, kind: str) -> dict[str, Any]:
    return next((row for row in reversed(read_metrics(run)) if row["kind"] == kind), {})


def _describe(
    config: FinetuneConfig,
    folder: RunFolder,
    network: Network,
    data: PreparedData,
    trainer: Trainer,
    device: torch.device,
    checkpoint: Path | None,
) -> None:
    """Log what is about to be trained."""
    train, size = data.train.dataset, network.preprocessing
    folder.log(f"model {network.name}: {size.height}x{size.width} input, {network.dimension}-d embedding")
    folder.log(f"preprocessing: {size} ({network.preprocessing_origin})")
    folder.log(f"train on {train.name}: {_trained_on(config, train)}")
    for name, held in data.held_out.items():
        folder.log(f"evaluate on {f'{name}, ' if name else ''}{held.dataset.name}: {held.dataset}")
    if network.weights is not None:
        folder.log(f"note: model.weights {config.model.weights}: {network.weights}")
    for note in data.notes:
        folder.log(f"note: {note}")
    for note in _notes_of_plan(config, trainer, device):
        folder.log(f"note: {note}")
    processes = "1 process" if world_size() == 1 else f"{world_size()} processes"
    folder.log(f"{processes} on {device}, {trainer.steps_per_epoch} steps per epoch, into {folder.path}")
    if checkpoint is not None:
        folder.log(f"resumed from {checkpoint}")
    folder.write_environment(
        {"processes": world_size(), "device": str(device), "threads": torch.get_num_threads(), "model": network.name}
    )


def _trained_on(config: FinetuneConfig, train: Dataset) -> str:
    """What the training data hold; with teachers, images of nobody have no label and are not distractors."""
    unlabelled = int((train.identities == NOBODY).sum())
    if config.distil is None or not unlabelled:
        return str(train)
    return f"{len(train)} images of {train.identity_count} identities, {unlabelled} of them without labels"


def _finetune_as_rank(
    config: FinetuneConfig, resume: str | Path | None, resume_with: Sequence[str], *, quiet: bool, progress: bool
) -> FinetuneResult:
    """The run of one process under a torchrun that the user started: rank 0 chooses the folder for all."""
    device = resolve_device(config.device)
    with joined_group(device), ExitStack() as held:
        choice: list[tuple[Path, Path | None] | RtoolError | None] = [None]
        if rank() == 0:
            try:
                choice[0] = held.enter_context(opened_run(config, resume, describe_data, resume_with))
            except RtoolError as error:  # sent to the other ranks, which would wait
                choice[0] = error
        torch.distributed.broadcast_object_list(choice)
        chosen = choice[0]
        if isinstance(chosen, RtoolError):
            raise chosen
        if chosen is None:
            raise InputError("rank 0 did not say which run folder to use")
        _train_in_group(config, chosen[0], chosen[1], device, quiet=quiet, progress=progress)
        torch.distributed.barrier()
    return _read_result(chosen[0])


def _notes_of_plan(config: FinetuneConfig, trainer: Trainer, device: torch.device) -> list[str]:
    """Lines for the log on where the run differs from what the configuration suggests."""
    notes = list(trainer.notes)
    if config.precision == "half":
        notes.append(f"precision half: {str(autocast_dtype('half', device)).removeprefix('torch.')} on {device}")
    if config.precision == "fp16" and device.type == "cpu":
        notes.append("precision fp16: this CPU may emulate float16, many times slower than bf16")
    return notes


def _how_to_continue(run: Path) -> str:
    if (run / "checkpoints" / "last.rtool").exists():
        return f"Interrupted. Checkpoints are in {run}; continue with --resume auto"
    return f"Interrupted before the first checkpoint; the log is in {run}"


def _read_result(run: Path) -> FinetuneResult:
    if not (run / "result.json").exists():
        saved = last_checkpoint(run).exists()
        way_out = "--resume auto continues from the last checkpoint" if saved else "there is no checkpoint"
        raise PlatformError(f"{run}: stopped before it could save; {way_out}")
    values = parse_json((run / "result.json").read_text(encoding="utf-8"))
    best = run / "checkpoints" / "best.rtool"
    return FinetuneResult(run_dir=run, best=best if best.exists() else None, last=last_checkpoint(run), **values)
