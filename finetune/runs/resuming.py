"""Which run to train in, a new one or one that is resumed; it is locked, and checked before anything in it changes.

From one start to the next these may change: epochs, learning rates, batches, processes, precision, augmentation,
freezing, logging. What a checkpoint holds, or what its metrics depend on, may not; a change of it is refused by name.
The seed, the training data and the evaluation may change where the caller accepts it; `best` then starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ...converters.bundles.bundle_info import bundle_preprocessing, read_info
from ...converters.preprocessing.decision import decide_preprocessing
from ...converters.preprocessing.evidence import PreprocessingEvidence
from ...converters.records.json_text import parse_json
from ...errors import ConfigError, InputError, nearest
from ..config.config import FinetuneConfig, PartsLoss
from ..config.distillation import DistilConfig, FeaturesTerm
from ..config.files import load_config
from .checkpoints import check_checkpoint, clear_partial, load_progress
from .copied_links import restore_links
from .data_record import ACCEPTABLE, DataRecord, check_data, load_data_record
from .run_folder import create_run_folder, find_unfinished, renew_config, run_locked

__all__ = ["last_checkpoint", "opened_run"]

_FIXED: dict[str, Callable[[FinetuneConfig], Any]] = {
    "model.reference": lambda config: config.model.reference,
    "model.options": lambda config: config.model.options,
    "model.output": lambda config: config.model.output,
    "model.weights": lambda config: config.model.weights,
    "model.restore_bn": lambda config: config.model.restore_bn,
    "losses": lambda config: [_shape(loss) for loss in config.losses],
    "distil": lambda config: config.distil and _shape_of_distil(config.distil),
    "search": lambda config: config.search and config.search.model_dump(mode="json"),
    "optimizer.kind": lambda config: config.optimizer.kind,
    "optimizer.ema": lambda config: "an average" if config.optimizer.ema else "no average",
    "evaluation.protocol": lambda config: config.evaluation and config.evaluation.protocol,
    "evaluation.function": lambda config: config.evaluation and config.evaluation.function,
    "evaluation.metric": lambda config: config.evaluation and config.evaluation.metric,
}
"""By field, the values that must not change: a checkpoint holds them, or its metric is compared with later ones."""


@contextmanager
def opened_run(
    config: FinetuneConfig,
    resume: Literal["auto"] | str | Path | None,
    describe: Callable[[FinetuneConfig], DataRecord] | None = None,
    accepted: Collection[str] = (),
) -> Iterator[tuple[Path, Path | None]]:
    """The run folder to train in, locked within the context, and the checkpoint to continue from, None for a new run.

    Args:
        config: The configuration of this start.
        resume: None for a new run; a run folder or checkpoint; or "auto", as for `finetune`.
        describe: The data of a configuration, to compare with those of the checkpoint; None compares nothing.
        accepted: Changes of the data to accept, names of `ACCEPTABLE`.

    Raises:
        InputError: `resume` names no run, or one without a whole checkpoint, with its epochs done, or being written.
        ConfigError: the configuration or the data do not fit the run, or `accepted` has an unknown name.
    """
    for name in accepted:
        if name not in ACCEPTABLE:
            raise ConfigError(f"--resume-with {name}: cannot be accepted; {nearest(name, ACCEPTABLE)}")
    found = _find(config, resume)
    if found is None:
        run = create_run_folder(config)
        with run_locked(run):
            yield run, None
        return
    run, checkpoint = found
    with run_locked(run):
        check_checkpoint(checkpoint)
        _check_epochs(run, checkpoint, config)
        _check_config(run, config)
        _check_preprocessing(run, checkpoint, config)
        recorded = load_data_record(checkpoint)
        if describe is not None and recorded is not None:
            check_data(run, recorded, describe(config), accepted)
        clear_partial(run / "checkpoints")
        checkpoint = restore_links(run / "checkpoints", checkpoint)
        renew_config(run, config)
        yield run, checkpoint


def last_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run, not the link to it, which the resumed run changes."""
    return (run / "checkpoints" / "last.rtool").resolve()


def _find(config: FinetuneConfig, resume: str | Path | None) -> tuple[Path, Path] | None:
    """The run and the checkpoint that `resume` names; None starts a new run."""
    if resume is None:
        return None
    if resume == "auto":
        unfinished = find_unfinished(config)
        return None if unfinished is None else (unfinished, last_checkpoint(unfinished))
    named = Path(resume)
    if named.suffix == ".rtool" and named.parent.name == "checkpoints" and named.exists():
        return named.parent.parent, named.resolve()
    if not last_checkpoint(named).exists():
        raise InputError(
            f"{named}: no checkpoints/last.rtool to resume from; name a run folder, one of its checkpoints, or use "
            "--resume auto"
        )
    return named, last_checkpoint(named)


def _check_epochs(run: Path, checkpoint: Path, config: FinetuneConfig) -> None:
    """Refuse a run whose epochs are done; one that was killed before its result was written may write it now."""
    done = load_progress(checkpoint).epoch
    if done >= config.epochs and _finished(run):
        raise InputError(
            f"{run}: has done {done} epochs of {config.epochs}; raise epochs to continue, or start a new run"
        )


def _finished(run: Path) -> bool:
    """Whether the run wrote that it finished; a search may be stopped behind its last epoch."""
    result = run / "result.json"
    return result.exists() and bool(parse_json(result.read_text(encoding="utf-8"))["finished"])


def _check_config(run: Path, config: FinetuneConfig) -> None:
    path = run / "config.yaml"
    if not path.exists():
        return
    before = load_config(path)
    for field, value in _FIXED.items():
        was, now = value(before), value(config)
        if was != now:
            raise ConfigError(f"{field}: {run} was trained with {was}, got {now}; put it back, or start a new run")


def _check_preprocessing(run: Path, checkpoint: Path, config: FinetuneConfig) -> None:
    """Refuse to show the network other numbers for the same image than it was trained and measured on."""
    was = bundle_preprocessing(checkpoint, read_info(checkpoint))
    if was is None:
        return
    shown = PreprocessingEvidence(str(run)).stating(was, "stored in the bundle")
    now = decide_preprocessing(shown, config.model.preprocessing, config.model.size).preprocessing
    if was != now:
        raise ConfigError(
            f"model.preprocessing: {run} was trained with {was}, got {now}; put it back, or start a new run"
        )


def _shape_of_distil(distil: DistilConfig) -> tuple[object, ...]:
    """What a checkpoint holds of the terms, and whom they compare with; weights and the cache may change."""
    teachers = [(each.reference, each.output, each.logits, each.weights) for each in distil.teachers]
    terms = [(term.kind, dict(term.layers) if isinstance(term, FeaturesTerm) else {}) for term in distil.terms]
    return teachers, terms, distil.labels


def _shape(loss: Any) -> str:
    """The properties of a loss that decide which weights it has."""
    return f"{loss.kind} of {loss.parts} parts" if isinstance(loss, PartsLoss) else str(loss.kind)
