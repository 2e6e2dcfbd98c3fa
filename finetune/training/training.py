"""The training loop: epochs of steps, evaluations and checkpoints; resumable at any step.

Everything that a step depends on follows from the configuration and `Progress` (order, augmentation, learning rate) or
is in the checkpoint (weights, optimizer, loss scale, average, generators), so a resumed run gives the same bits as an
uninterrupted one. Only rank 0 writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import GateError
from ..config.config import FinetuneConfig
from ..data.loading import Batch, iterate_batches, lost_workers_named
from ..data.unreadable_images import UnreadableImages
from ..distillation.panel import Teachers
from ..evaluation.several_sets import choose_metric
from ..matching.head_records import head_records
from ..matching.stored import save_matching
from ..network.learner import Learner
from ..network.networks import Network
from ..processes.collectives import all_reduce_sum, barrier, rank, world_size
from ..processes.interruption import on_stop_signal
from ..runs.alongside import Alongside, Place
from ..runs.checkpoints import (
    Progress,
    best_step,
    give_up_later,
    go_back_to_proven,
    load_shards,
    load_training_state,
    prune_checkpoints,
    save_checkpoint,
    stage_shard,
)
from ..runs.data_record import difference_noted
from ..runs.early_stopping import evaluated, patience_is_over
from ..runs.gain import SOURCE_KIND, shown_metrics
from ..runs.run_folder import RunFolder, read_metrics
from ..runs.trained_link import trained_link
from .assembly import assemble_learner
from .divergence import divergence_error
from .epoch import confused_people, epoch_samples, epoch_steps, rank_share
from .generators import generator_states, load_generator_states, seed_generators
from .measuring.held_out import MeasuredSets, embedder_of, matcher_of, plan_sets
from .measuring.moments import evaluation_is_due
from .measuring.source_cache import source_cache
from .metering import Meter
from .prepared_data import PreparedData
from .review import review_run
from .schedules import learning_rate_factor
from .stepping import Stepper

__all__ = ["Outcome", "Trainer"]

_MOST_SKIPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class Outcome:
    """How training ended: finished, or stopped by a signal or an error; `metric` chooses the best checkpoint."""

    finished: bool
    stopped_by: str | None
    progress: Progress
    images_per_second: float
    """Of all ranks."""
    metric: str | None


class Trainer:
    """One run on one process. Every rank builds it and calls `run`; only rank 0 passes a folder."""

    def __init__(
        self,
        config: FinetuneConfig,
        network: Network,
        data: PreparedData,
        folder: RunFolder | None,
        checkpoints: Path,
        device: torch.device,
        teachers: Teachers | None = None,
        beside: Callable[[Learner, Stepper], Alongside] | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._config, self._network, self._data = config, network, data
        self._folder, self._device = folder, device
        self._teachers = teachers
        self._evaluated: tuple[int, dict[str, Any]] = (-1, {})
        self._stops_early = False
        self._stopped_by: str | None = None
        self._unreadable = UnreadableImages(data.train.dataset)
        self._total = Meter(len(config.terms()), device)
        self._sets: MeasuredSets | None = None
        self._metric: str | None = None
        if (evaluation := config.evaluation) is not None:
            plans = plan_sets(evaluation, {name: held.dataset for name, held in data.held_out.items()})
            self._sets = MeasuredSets(evaluation, data.held_out, plans, folder.display.stage if folder else None)
            self._metric = choose_metric(plans, evaluation.metric)
        self._learner, self.notes = assemble_learner(
            config, network, data.train.dataset.identity_count, device, teachers
        )
        first = epoch_steps(config, data.train.dataset, ranks=world_size(), epoch=0)
        self.notes += review_run(config, network, self._learner, data.train.dataset, first, world_size())
        self._stepper = Stepper(
            config, self._learner, network.preprocessing, device, teachers, skips_parameters=beside is not None
        )
        self._beside = None if beside is None else beside(self._learner, self._stepper)
        batches, global_batch = first.shape
        self.steps_per_epoch: int = batches // config.optimizer.accumulate
        self._progress = Progress(world_size=world_size(), batches=batches, global_batch=global_batch)
        seed_generators(config.seed)

    @property
    def step(self) -> int:
        """Optimizer steps so far, skipped ones included."""
        return self._progress.step

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint; with another number of processes or batch size, at the same share of the epoch.

        Raises:
            ConfigError: the checkpoint's heads have another number of classes.
            InputError: shards are missing.
        """
        progress, tensors = load_training_state(checkpoint)
        self._stepper.load(tensors)
        self._stepper.load_shards(load_shards(checkpoint))
        load_generator_states(tensors, self._device)
        if self._beside is not None:
            self._beside.load(tensors)
        now, accumulate = self._progress, self._config.optimizer.accumulate
        batch = progress.batch * now.batches // progress.batches // accumulate * accumulate if progress.batch else 0
        self._progress = replace(
            progress, world_size=now.world_size, batches=now.batches, global_batch=now.global_batch, batch=batch
        )
        if progress.global_batch != now.global_batch:
            self._log(f"batches of {now.global_batch} images from here on, {progress.global_batch} before")
        barrier()  # a rank that cannot load it fails first, before later checkpoints are deleted
        if self._folder is not None:
            self._give_up_later(self._folder, checkpoint)

    def run(self, asked_before: Sequence[str] = ()) -> Outcome:
        """Train until the last epoch, or until SIGTERM or Ctrl-C, which save and stop.

        Args:
            asked_before: Names of signals that came before now.

        Raises:
            GateError: training diverged.
            DataError: over 1 % of the images cannot be read.
        """
        stopped = False
        with on_stop_signal(self._request_stop), lost_workers_named():
            for name in asked_before:
                self._request_stop(name)
            sets = self._sets
            if self._progress.step == 0 and sets is not None and sets.evaluation.first and rank() == 0:
                self._measure_source(sets)
            if self._lacks_evaluation():
                self._evaluate_and_save()
            while not stopped and not self._is_done():
                stopped = self._run_epoch()
                if stopped:
                    self._save(best=False)
        return self.outcome((self._stopped_by or "a signal to another process") if stopped else None)

    def outcome(self, stopped_by: str | None) -> Outcome:
        """The outcome so far; `stopped_by` is None when the run has finished."""
        return Outcome(stopped_by is None, stopped_by, self._progress, self._total.images_per_second, self._metric)

    def _measure(self, sets: MeasuredSets, *, source: bool = False) -> dict[str, Any]:
        """Measure the held-out data with the present weights, or with their average if one is kept."""
        with self._stepper.evaluated():
            self._learner.eval()
            try:
                backbone, made_of = self._learner.backbone, (self._network, self._config.model, self._device)
                cache = source_cache(backbone, self._network, self._config, self._device, self._log) if source else None
                matcher = matcher_of(self._learner, *made_of)
                return sets.measure(embedder_of(backbone, *made_of), self._log, cache, matcher)
            finally:
                self._learner.train()

    def _give_up_later(self, folder: RunFolder, checkpoint: Path) -> None:
        """Drop what was saved and measured after a checkpoint; `best` becomes the best of what is left."""
        metric = self._metric or ""
        rows = [row for row in read_metrics(folder.path) if row.get(metric) is not None]
        measured = {row["step"]: row[metric] for row in rows if row["kind"] == "evaluation"}
        for line in give_up_later(self._checkpoints, checkpoint, measured):
            self._log(f"resuming from {checkpoint.name}: {line}")
        best = None if (step := best_step(self._checkpoints)) is None else measured.get(step, self._progress.best)
        if changed := difference_noted(checkpoint, self._data.record):
            self._log(changed)
            best = None
        self._progress = replace(self._progress, best=best)
        folder.forget_after(self._progress.step)
        if changed:
            self._record(kind=SOURCE_KIND)  # what the source scored on other data does not compare

    def _request_stop(self, signal_name: str) -> None:
        self._stopped_by = self._stopped_by or signal_name

    def _run_epoch(self) -> bool:
        """Train for the rest of the current epoch, unless the run stops early; True if a signal stopped it."""
        epoch = self._progress.epoch
        self._stepper.begin_epoch(epoch, fresh=self._progress.batch == 0)
        if self._progress.batch == 0:
            made_of = self._config, self._learner, self._data.train, self._network.preprocessing, self._device
            self._stepper.nearest = confused_people(*made_of, ranks=world_size(), epoch=epoch)
        nearest, dataset = self._stepper.nearest, self._data.train.dataset
        plan = epoch_steps(self._config, dataset, ranks=world_size(), epoch=epoch, nearest=nearest)
        batches = self._batches(plan, epoch)
        meter = Meter(len(self._config.terms()), self._device)
        accumulate = self._config.optimizer.accumulate
        while self._progress.batch < len(plan):
            started = time.perf_counter()
            group = [next(batches) for _ in range(accumulate)]
            waited = time.perf_counter() - started
            losses, succeeded = self._step(group)
            images = len(group) * plan.shape[1]
            for each in (meter, self._total):
                each.add(losses, images, waited, time.perf_counter() - started, succeeded=succeeded)
            ends = self._progress.batch == len(plan)
            if ends or self._progress.step % self._config.log_every == 0:
                self._report(meter)
            if ends:
                self._progress = replace(self._progress, epoch=epoch + 1, batch=0)
                if self._beside is not None:
                    self._beside.end_epoch(epoch, self._progress.step)
            elif self._should_stop():
                if meter.steps:
                    self._report(meter)
                return True
            if self._evaluation_is_due():
                self._evaluate_and_save()
                if self._is_done():
                    break
            elif ends or ((every := self._config.checkpoints.every_steps) and self._progress.step % every == 0):
                self._save(best=False)
            if ends:
                break
        return False

    def _batches(self, plan: NDArray[np.int64], epoch: int) -> Iterator[Batch]:
        """The batches of this rank from the present position in the epoch."""
        samples = epoch_samples(self._config, self._data.train, self._network.preprocessing, epoch=epoch)
        columns = rank_share(self._config, plan, rank(), world_size())
        pin = self._device.type == "cuda"
        return iterate_batches(samples, plan, columns, self._config.data.workers, first=self._progress.batch, pin=pin)

    def _step(self, group: list[Batch]) -> tuple[Tensor, bool]:
        """Train on a group and advance: the mean losses [H] of this process, and whether the weights were updated."""
        self._unreadable.note(group)
        progress, config = self._progress, self._config
        rate = learning_rate_factor(config.schedule, self._place, self.steps_per_epoch, config.epochs)
        if self._beside is not None:
            in_epoch = progress.batch // config.optimizer.accumulate
            self._beside.before_step(Place(progress.epoch, in_epoch, self.steps_per_epoch, config.epochs), rate, group)
        losses, succeeded = self._stepper.step(group, rate, stop=self._stopped_by is not None)
        self._progress = replace(
            progress,
            batch=progress.batch + len(group),
            step=progress.step + 1,
            skipped=progress.skipped + (not succeeded),
            skipped_in_a_row=0 if succeeded else progress.skipped_in_a_row + 1,
        )
        if not succeeded:
            self._log(f"step {self._progress.step}: gradient not finite, step skipped: {self._stepper.not_finite}")
        if self._progress.skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
            # `last` then is a checkpoint worth continuing from, and every rank raises the same error.
            if rank() == 0:
                go_back_to_proven(self._checkpoints, self._progress)
            barrier()
            raise divergence_error(self._checkpoints, self._progress, self._stepper.not_finite, _MOST_SKIPPED_IN_A_ROW)
        return losses, succeeded

    @property
    def _place(self) -> int:
        """Position in the present plan, in steps; equal to `step` unless the run was resumed with other batches."""
        in_epoch = self._progress.batch // self._config.optimizer.accumulate
        return self._progress.epoch * self.steps_per_epoch + min(in_epoch, self.steps_per_epoch)

    def _should_stop(self) -> bool:
        """Whether any process was asked to stop; shared at every step, so that all stop at the same one."""
        return self._stepper.stop_asked if world_size() > 1 else self._stopped_by is not None

    def _evaluation_is_due(self) -> bool:
        return evaluation_is_due(self._config, self._place, self.steps_per_epoch)

    def _is_done(self) -> bool:
        """Whether all epochs are done, or the run stops early. A collective, the same on all ranks."""
        evaluation, progress = self._config.evaluation, self._progress
        if evaluation is not None and progress.epoch < self._config.epochs and not self._stops_early:
            self._stops_early = patience_is_over(evaluation.patience, progress, self._device, self._log)
        ends = self._beside is not None and self._beside.ends
        return progress.epoch >= self._config.epochs or self._stops_early or ends

    def _lacks_evaluation(self) -> bool:
        """Whether the run was resumed where an evaluation is due that failed or was not begun. A collective."""
        progress = self._progress
        if progress.step == 0 or not self._evaluation_is_due():
            return False
        lacks = 0.0
        if rank() == 0:
            rows = read_metrics(self._checkpoints.parent)
            lacks = float(not any(row["kind"] == "evaluation" and row["step"] == progress.step for row in rows))
        return bool(all_reduce_sum(torch.tensor(lacks, device=self._device)) > 0)

    def _measure_source(self, sets: MeasuredSets) -> None:
        """Measure the source model before the first step; its score chooses no checkpoint."""
        self._record(kind=SOURCE_KIND, **(values := self._measure(sets, source=True)))
        self._log(f"source model: {shown_metrics(values)}")

    def _evaluate_and_save(self) -> None:
        """Evaluate on rank 0, and save; weights whose evaluation fails are saved as well."""
        sets, metric_name = self._sets, self._metric
        if rank() != 0 or sets is None or metric_name is None:
            self._save(best=False)
            return
        try:
            values = self._measure(sets)
        except GateError:  # training has diverged: nobody should continue from here
            raise
        except Exception:
            self._save(best=False)
            raise
        if self._beside is not None:
            values |= self._beside.measured(values, metric_name, lambda: self._measure(sets))
        metric = math.nan if values[metric_name] is None else float(values[metric_name])
        # a best that is NaN, as older runs may have, is replaced by any number
        best = math.isfinite(metric) and (self._progress.best is None or not metric <= self._progress.best)
        self._progress = evaluated(self._progress, metric, best=best)
        self._evaluated = (self._progress.step, values)
        self._record(kind="evaluation", **values)
        self._log(f"epoch {self._place / self.steps_per_epoch:g}: {shown_metrics(values)}")
        self._save(best=best)

    def _save(self, *, best: bool) -> None:
        """Write a checkpoint. A collective: every rank calls it."""
        generators = generator_states(self._device)
        if self._teachers is not None:
            self._teachers.flush()
        shard = self._stepper.shard_state()
        if shard:
            stage_shard(self._checkpoints, self._progress, rank(), shard)
            barrier()
        if self._folder is None:
            return
        beside = {} if self._beside is None else self._beside.state()
        tensors = {**self._stepper.state(), **generators, **beside}
        link = trained_link(self._config.name, self._progress, self._evaluated)
        with self._stepper.evaluated():
            save_checkpoint(
                self._checkpoints,
                self._progress,
                tensors,
                lambda path: save_matching(
                    self._network.save(path, self._learner.backbone, link), self._learner, self._config.model.output
                ),
                best=best,
                data=self._data.record,
            )
        prune_checkpoints(self._checkpoints, self._config.checkpoints.keep, self._progress)

    def _report(self, meter: Meter) -> None:
        """Log and record the means since the last report, losses over all ranks. A collective."""
        self._unreadable.share(self._device, self._log)
        losses = (all_reduce_sum(meter.mean_losses) / world_size()).tolist()
        parts = {name: losses[i] for i, (name, _) in enumerate(self._config.terms())}
        rate, wait, lr = meter.images_per_second, meter.data_wait, self._stepper.learning_rate
        heads = head_records(parts, self._learner.heads)
        self._record(kind="train", losses=parts, lr=lr, images_per_second=rate, data_wait=wait, **heads)
        steps = self._config.epochs * self.steps_per_epoch
        steps_left = steps - self._place
        seconds_left = steps_left * meter.seconds / max(meter.steps, 1)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in parts.items())
        line = f"{shown}  lr {lr:.2e}  {rate:.0f} images/s  data wait {wait:.1%}"
        if self._folder is not None:
            place = f"epoch {self._progress.epoch + 1}/{self._config.epochs}  step {self._progress.step}"
            self._folder.log(f"{place}  {line}  {seconds_left:.0f} s left", routine=True)
            self._folder.display.update(self._place, steps, line)
        meter.reset()

    def _record(self, *, kind: str, **values: object) -> None:
        if self._folder is not None:
            self._folder.record(kind=kind, step=self._progress.step, epoch=self._progress.epoch, **values)

    def _log(self, line: str) -> None:
        if self._folder is not None:
            self._folder.log(line)
