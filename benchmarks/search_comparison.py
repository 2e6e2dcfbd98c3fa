"""`rtool bench search SEARCH RUN...`: the found cell, trained from scratch, beside other cells and baselines.

Runs of one network with different seeds are one row. Parameters and multiply-accumulates are counted, latency is
measured side by side in ONNX Runtime, metrics are those of each run's last evaluation: the best one would be chosen on
the people that it is measured on. The table is kept in `search/comparison.json` of the search, whose page shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..converters.bundles.reference import Model, load_model, resolve_run_folder
from ..converters.exporting.reexport import torch_to_onnx
from ..converters.records.json_text import parse_json
from ..converters.runtime.runners import TorchRunner
from ..converters.zoo.cells.genotype import Genotype, genotype_of_json, read_genotype
from ..converters.zoo.pcb import PCB
from ..errors import InputError
from ..finetune.config.config import LossConfig, PartsLoss, SoftmaxLoss
from ..finetune.config.files import load_config
from ..finetune.embedding.embedders import Embedder, open_embedder
from ..finetune.evaluation.evaluation import evaluate
from ..finetune.losses.heads import LinearHead, PartsHead, build_head
from ..finetune.search.report.comparison import ComparedNetwork, Percentile, Role, found_percentile, write_comparison
from ..finetune.search.report.page import write_search_report
from .timing import latency

__all__ = ["SearchComparison", "search"]


@dataclass(frozen=True)
class _Run:
    folder: Path
    name: str
    role: Role
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SearchComparison:
    """Networks that were trained in full, and the page of the search that shows them."""

    networks: tuple[ComparedNetwork, ...]
    percentile: Percentile | None
    """Where the found cell lies among the random ones by mAP; None where one or the other is missing."""
    page: Path


def search(
    folder: str | Path,
    runs: Sequence[str | Path],
    *,
    closed_set: str | Path | None = None,
    rounds: int = 50,
    threads: int | None = 1,
    report: Callable[[str], object] = lambda _: None,
) -> SearchComparison:
    """Put trained networks beside each other, and write them into a search's folder and page.

    Args:
        folder: The run folder of a search that has ended.
        runs: Folders of finished runs; those that differ by their seed alone are one network.
        closed_set: Images of the training identities, in the order of the training data, that no run trained on: each
            run's classifier is measured on them, as `top1`. Its run needs the loss softmax or pcb.
        rounds: Calls of each network for its latency, in turns.
        threads: Of ONNX Runtime; None leaves it to the runtime.
        report: Called with a line on what is done.

    Raises:
        InputError: a folder is no finished run, the search found no cell, or a run has no classifier to measure.
        DataError: `closed_set` has another number of identities than a classifier has classes.
    """
    folder = Path(folder)
    genotype_file = folder / "search" / "genotype.json"
    if not genotype_file.is_file():
        raise InputError(f"{folder}: not a search that has ended: it has no search/genotype.json; resume it first")
    if not runs:
        raise InputError("bench search: name at least one run of a network that was trained")
    found = read_genotype(genotype_file)
    rows: dict[str, list[_Run]] = {}
    for run in runs:
        known = _read_run(Path(run), found)
        if closed_set is not None:
            report(f"{run}: classifying {closed_set}")
            known = replace(known, metrics={**known.metrics, "top1": _top1(known.folder, closed_set)})
        rows.setdefault(known.name, []).append(known)
    with TemporaryDirectory(prefix="rtool-search-") as scratch:
        compared, files = [], []
        for number, (name, group) in enumerate(rows.items()):
            model = load_model(group[0].folder)
            parameters, macs, file = *_counted(model), Path(scratch) / f"{number}.onnx"
            _export(model, file)
            files.append(file)
            metrics = tuple(run.metrics for run in group)
            compared.append(ComparedNetwork(name, group[0].role, parameters, macs, None, metrics))
        report(f"timing {len(files)} networks, {rounds} rounds")
        timed = latency(files, rounds=rounds, threads=threads).rows
    result = tuple(replace(each, latency_ms=row.p50) for each, row in zip(compared, timed, strict=True))
    write_comparison(folder / "search", result)
    return SearchComparison(result, found_percentile(result, "mAP"), write_search_report(folder))


def _read_run(folder: Path, found: Genotype) -> _Run:
    result = folder / "result.json"
    if resolve_run_folder(folder) is None or not result.is_file():
        raise InputError(f"{folder}: not the folder of a run that has ended; give one with result.json and checkpoints")
    outcome = parse_json(result.read_text(encoding="utf-8"))
    if not outcome["finished"]:
        raise InputError(f"{folder}: was stopped before its end; finish it with --resume")
    metrics = {name: float(value) for name, value in (outcome["metrics"] or {}).items() if isinstance(value, float)}
    config = load_config(folder / "config.yaml")
    name, role = config.model.reference, "baseline"
    options = {name: value for name, value in config.model.options.items() if name != "genotype"}
    if name == "searched":
        cell = _genotype_of(folder)
        role = _role(cell, found)
        name = {"found": "found cell", "halving": "best of halving"}.get(role) or f"cell {_described(cell)}"
    described = " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in options.items())])
    return _Run(folder, described, role, metrics)  # type: ignore[arg-type]


def _genotype_of(folder: Path) -> Genotype:
    checkpoint = resolve_run_folder(folder)
    assert checkpoint is not None
    info: dict[str, Any] = parse_json((checkpoint / "bundle.json").read_text(encoding="utf-8"))
    return genotype_of_json(info["architecture"]["options"]["genotype"], str(checkpoint))


def _role(cell: Genotype, found: Genotype) -> Role:
    if (cell.normal, cell.reduce, cell.space) == (found.normal, found.reduce, found.space):
        return "found"
    return "halving" if cell.facts.get("method") == "random" else "random"


def _described(cell: Genotype) -> str:
    """A name of a cell for people: its operations, node by node."""
    kinds = (cell.normal, cell.reduce)
    return " | ".join(" ".join(f"{op}{state}" for edges in nodes for op, state in edges) for nodes in kinds)


def _counted(model: Model) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model.module(_image(model))
    return sum(parameter.numel() for parameter in model.module.parameters()), flops.get_total_flops() // 2


def _export(model: Model, path: Path) -> None:
    onnx.save(torch_to_onnx(model.module, _image(model)), path)


def _image(model: Model) -> torch.Tensor:
    size = model.preprocessing
    assert size is not None, "a run's bundle states its preprocessing"
    return torch.zeros(1, size.channels, size.height, size.width)


def _top1(folder: Path, data: str | Path) -> float:
    """Closed-set top-1 of a run's network with its classifier on other images of the training identities."""
    result = evaluate(_with_classifier(folder), data, protocol="classification", flip=False)
    return float(result.top1)  # type: ignore[union-attr]


def _with_classifier(folder: Path) -> Embedder:
    """A run's network, from pixels to the scores of its classes.

    The scores of `pcb` are the sum of those of its parts, each after a softmax, as its authors' classify.
    """
    losses = load_config(folder / "config.yaml").losses
    number = next((number for number, loss in enumerate(losses) if isinstance(loss, SoftmaxLoss | PartsLoss)), None)
    checkpoint = resolve_run_folder(folder)
    if number is None or checkpoint is None:
        raise InputError(
            f"{folder}: has no classifier, so no closed-set accuracy; train it with the loss softmax or pcb"
        )
    head = _trained_head(losses[number], checkpoint / "training.safetensors", f"heads/{number}.")
    model = load_model(folder)
    if isinstance(model.module, PCB):
        model.module.normalises = False
    embedder = open_embedder(TorchRunner(model.module, name=str(folder)), preprocessing=model.preprocessing)

    def scores_at(batch: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            found = head.logits(torch.from_numpy(embedder.embed_at(batch, pixels)))
            parts = found if isinstance(found, list) else [found]
            scores: Tensor = sum(part.softmax(dim=1) for part in parts)  # type: ignore[assignment]
            return scores.numpy()

    return replace(embedder, embed_at=scores_at)


def _trained_head(loss: LossConfig, path: Path, prefix: str) -> LinearHead | PartsHead:
    """The classifier of a checkpoint, in eval mode."""
    tensors = {name.removeprefix(prefix): value for name, value in load_file(path).items() if name.startswith(prefix)}
    weights = [value for name, value in tensors.items() if name.endswith("weight") and value.ndim == 2]
    head = build_head(loss, sum(weight.shape[1] for weight in weights), weights[0].shape[0])
    assert isinstance(head, LinearHead | PartsHead)
    head.load_state_dict(tensors)
    return head.eval()
