"""`adapt`: a model learns the people of unlabelled crops from the gallery's own clusters, again and again.

Each round clusters the crops with the newest model (DBSCAN on k-reciprocal Jaccard distances, tracks centred by
camera), writes the people found as labels, and fine-tunes the SOURCE model on them, so that mistakes of earlier rounds
are not inherited. Clustering and training in turns is how unsupervised re-identification is trained (Fan et al. 2018,
arXiv:1705.10444; Dai et al. 2021, arXiv:2103.11568). Rounds stop when the people no longer change, or when their
cohesion falls: the model before is the result then. True labels serve to measure only.

    OUT/round-0/gallery/            with the source model
    OUT/round-1/training/adapt/TIME a run of `rtool finetune` on round-0/gallery/pseudo.csv
    OUT/round-1/gallery/            with the model of that run
    OUT/adapt.json, OUT/report.html
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...converters.files.atomic_file import write_atomically
from ...converters.records.json_text import parse_json
from ...converters.zoo.facts import FACTS
from ...errors import ConfigError, DataError, InputError
from ...finetune.config.config import FinetuneConfig
from ...finetune.config.files import load_config
from .adaptation_report import Round, write_adaptation_report
from .galleries import gallery
from .people.agreement import agreement
from .settings import GallerySettings

__all__ = ["AdaptResult", "Round", "adapt"]

_RECIPE = Path(__file__).resolve().parents[2] / "examples" / "demo.yaml"
_STATE = "adapt.json"
_SETTLED = 0.02
"""Change of the people between rounds below which another round is not worth its time."""
_FEWEST = 2
"""People of two crops or more that can be told apart."""
_EPOCHS = 6


@dataclass(frozen=True)
class AdaptResult:
    """What the rounds gave."""

    folder: Path
    model: str
    """The best model: the folder of a run, or the source model where no round helped."""
    best_round: int
    rounds: tuple[Round, ...]
    """Round 0 is the source model."""
    stopped: str
    """Why there are no more rounds."""
    report: Path


def adapt(
    model: str | Path,
    crops: str | Path,
    output: str | Path,
    *,
    rounds: int = 2,
    evaluate: str | None = None,
    weights: str | Path | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    settings: GallerySettings | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> AdaptResult:
    """Adapt a model to the cameras of unlabelled crops.

    An interrupted call that is made again with the same settings continues where it stopped.

    Args:
        model: The source model: an ONNX file, bundle, run folder, or zoo name with `weights`.
        crops: Crops in tracks, as `gallery` takes them.
        output: The folder of all rounds; made, or continued.
        rounds: Most rounds of training.
        evaluate: Labelled data on which each model is measured, and nothing else.
        weights: A state_dict file for a zoo name.
        recipe: A configuration of `finetune`; by default that of the demo, with 6 epochs.
        overrides: `key=value` for fields of that configuration.
        seed: Of the training.
        settings: How crops become people; by default DBSCAN.
        report: Called with a line about each step.

    Raises:
        InputError: a model that cannot be trained, other settings than before in `output`, or an input that is missing.
        DataError: too few people are found to train on.
        ConfigError: `rounds` below 1, or a wrong setting of the training.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected 1 or more")
    _refuse_untrainable(str(model), weights)
    settings = replace(settings or GallerySettings(cluster="dbscan"), edits=None)
    folder = Path(output)
    loop = _Loop(
        str(model),
        str(crops),
        folder,
        evaluate,
        None if weights is None else str(weights),
        _recipe(model, weights, recipe, overrides, seed),
        settings,
        report,
    )
    loop.open(seed)
    return loop.run(rounds)


def _refuse_untrainable(model: str, weights: str | Path | None) -> None:
    if model.startswith("triton://"):
        raise InputError(f"{model}: a served model cannot be trained; give the file that is served")
    if model in FACTS and weights is None:
        raise InputError(
            f"{model}: has random weights, which find no people; give --weights FILE.pth or a trained model"
        )


def _recipe(
    model: str | Path, weights: str | Path | None, recipe: str | Path | None, overrides: Sequence[str], seed: int
) -> FinetuneConfig:
    """The training of every round, but for its data and output."""
    own = [
        "name=adapt",
        f"seed={seed}",
        f"model.reference={_escaped(model)}",
        f"model.restore_bn={'true' if recipe is None and Path(model).suffix == '.onnx' else 'false'}",
        "data.evaluate=null",
        "evaluation=null",
    ]
    own += [f"epochs={_EPOCHS}"] if recipe is None else []
    own += [] if weights is None else [f"model.weights={_escaped(weights)}"]
    return load_config(Path(recipe or _RECIPE), [*own, *overrides])


def _escaped(path: str | Path) -> str:
    return str(path).replace("$", "$$")


@dataclass
class _Loop:
    """The rounds of one folder."""

    model: str
    crops: str
    folder: Path
    evaluate: str | None
    weights: str | None
    recipe: FinetuneConfig
    settings: GallerySettings
    report: Callable[[str], object]

    def open(self, seed: int) -> None:
        """Make the folder, or check that what is in it was made with these settings."""
        stated = {
            "model": self.model,
            "crops": self.crops,
            "weights": self.weights,
            "seed": seed,
            "recipe": self.recipe.model_dump(mode="json"),
            "settings": json.loads(json.dumps(asdict(self.settings), default=str)),
        }
        state = self.folder / _STATE
        if state.is_file():
            before = parse_json(state.read_text(encoding="utf-8"))
            known = before.get("stated", {})
            other = [name for name in stated if known.get(name) != stated[name]]
            if other and before.get("rounds"):
                raise InputError(
                    f"{self.folder}: was begun with another {other[0]}; choose another folder with -o, or delete it"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder}: is not empty and holds no adaptation ({_STATE}); choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stated = stated
        if not state.is_file() or not parse_json(state.read_text(encoding="utf-8")).get("rounds"):
            self._save([], "", 0)

    def run(self, rounds: int) -> AdaptResult:
        """All rounds that help."""
        done = [self._measured(0, self.model, None)]
        self._save(done, "", 0)
        stopped = "every round asked for was made"
        best = 0
        for number in range(1, rounds + 1):
            trained = self._trained(number)
            done.append(self._measured(number, str(trained), done[-1]))
            self._save(done, "", best)
            this, before = done[-1], done[-2]
            if this.cohesion is not None and before.cohesion is not None and this.cohesion < before.cohesion:
                stopped = f"cohesion fell in round {number}, from {before.cohesion:.3f} to {this.cohesion:.3f}"
                break
            best = number
            if this.change is not None and this.change < _SETTLED:
                stopped = f"the people changed by {this.change:.1%} in round {number}"
                break
        self._save(done, stopped, best)
        page = write_adaptation_report(self.folder, done, best, stopped, self.evaluate)
        return AdaptResult(self.folder, done[best].model, best, tuple(done), stopped, page)

    def _gallery(self, number: int) -> Path:
        return self.folder / f"round-{number}" / "gallery"

    def _trained(self, number: int) -> Path:
        """The run folder of a round, trained now, continued or complete."""
        from ...finetune.finetuning import finetune

        place = self.folder / f"round-{number}" / "training"
        runs = sorted(path for path in (place / "adapt").glob("*") if (path / "result.json").is_file())
        for run in runs:
            if parse_json((run / "result.json").read_text(encoding="utf-8")).get("finished"):
                return run
        pseudo = self._gallery(number - 1) / "pseudo.csv"
        self.report(f"round {number}: fine-tuning the source model on {pseudo}")
        data = self.recipe.data.model_copy(update={"train": str(pseudo), "batch": self._batch(pseudo)})
        config = self.recipe.model_copy(update={"output": place, "data": data})
        result = finetune(config, resume="auto" if (place / "adapt").is_dir() else None, quiet=True)
        if not result.finished:
            raise KeyboardInterrupt
        return result.run_dir

    def _batch(self, pseudo: Path) -> int:
        """The recipe's batch; a smaller one where PK batches need more people than were found.

        Raises:
            DataError: fewer than two people have two crops.
        """
        with pseudo.open(encoding="utf-8", newline="") as file:
            crops = Counter(row["identity"] for row in csv.DictReader(file))
        people = sum(count > 1 for count in crops.values())
        if people < _FEWEST:
            raise DataError(
                f"{pseudo}: {people} people of two crops or more, and training needs {_FEWEST}; more tracks join with "
                "a larger --eps, see the gallery's page beside it"
            )
        data = self.recipe.data
        most = people * data.images_per_identity
        if data.sampler == "random" or data.batch <= most:
            return data.batch
        self.report(f"batches of {most} crops, for {people} people were found")
        return most

    def _measured(self, number: int, model: str, before: Round | None) -> Round:
        """The gallery of a round and what it shows."""
        folder = self._gallery(number)
        if not (folder / "summary.json").is_file():
            self.report(f"round {number}: finding people with {model}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            weights = self.weights if number == 0 else None
            gallery(model, self.crops, folder, weights=weights, settings=self.settings, report=self.report)
        summary = parse_json((folder / "summary.json").read_text(encoding="utf-8"))
        labels = _labels(folder)
        quality = summary.get("agreement") or {}
        metrics = self._metrics(number, model)
        this = Round(
            number=number,
            model=model,
            people=summary["people"],
            outliers=summary["outliers"],
            cohesion=summary["mean_cohesion"],
            change=None if before is None else _change(_labels(self._gallery(number - 1)), labels),
            pair_f=quality.get("pair_f"),
            mean_average_precision=metrics.get("mAP"),
            rank1=metrics.get("rank1"),
        )
        self.report(str(this))
        return this

    def _metrics(self, number: int, model: str) -> dict[str, float]:
        """Retrieval on the labelled data, kept beside the gallery."""
        if self.evaluate is None:
            return {}
        path = self.folder / f"round-{number}" / "evaluation.json"
        if path.is_file():
            kept = parse_json(path.read_text(encoding="utf-8"))
            if kept.get("data") == self.evaluate:
                return dict(kept["metrics"])
        from ...finetune.evaluation.evaluation import evaluate

        weights = self.weights if number == 0 else None
        result = evaluate(model, self.evaluate, protocol="retrieval", weights=weights)
        metrics = {name: float(vars(result)[name]) for name in ("mAP", "rank1")}
        write_atomically(path, json.dumps({"data": self.evaluate, "metrics": metrics}).encode())
        return metrics

    def _save(self, done: Sequence[Round], stopped: str, best: int) -> None:
        record: dict[str, Any] = {
            "schema": 1,
            "stated": self._stated,
            "rounds": [asdict(item) for item in done],
            "best_round": best,
            "stopped": stopped,
        }
        write_atomically(self.folder / _STATE, (json.dumps(record, indent=1) + "\n").encode())


def _labels(folder: Path) -> dict[str, int]:
    """The person of each track of a gallery."""
    clusters = parse_json((folder / "clusters.json").read_text(encoding="utf-8"))
    return {track: person["id"] for person in clusters["people"] for track in person["tracks"]}


def _change(before: dict[str, int], after: dict[str, int]) -> float:
    """1 - pairwise F of the people of two rounds."""
    shared = sorted(before.keys() & after.keys())
    return 1 - agreement([before[track] for track in shared], [after[track] for track in shared]).pair_f
