"""`rtool evaluate`: measure a model on one or several data sets, alone or against another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..embedding_options import (
    batch_option,
    cache_option,
    device_option,
    embedding_option,
    read_size,
    schedule_for,
    size_option,
    weights_option,
)
from ..output import Output, examples, output_options
from ..preprocessing import preprocessing_option
from ..probes import read_probes, value_option
from .options import named_sets, ranking_options
from .pairs import asks_for_pairs, measured_pairs, pair_options, pair_options_of
from .shown import ShownEvaluation
from .stage_progress import StageProgress

if TYPE_CHECKING:
    from ...finetune.evaluation.measuring import Measured
    from ...finetune.evaluation.standalone.pair_evaluation import MeasuredPairs

__all__ = ["evaluate_command"]


@click.command(
    "evaluate",
    epilog=examples(
        "rtool evaluate model.onnx market1501/ -o report/",
        "rtool evaluate runs/demo/20260101-120000 synthetic-people:identities=60,seed=2,cameras=7 --against model.onnx",
        "rtool evaluate iresnet.onnx lfw.bin cfp=cfp_fp.bin faces/ --size 112x112",
        "rtool evaluate osnet_x1_0 market1501/ --weights model.pth.tar --rerank --k1 20 --k2 6 --lambda 0.3",
        "rtool evaluate RUN faces/ -o report/ --scores embedding,matcher,combined --masked 1",
        "rtool evaluate triton://127.0.0.1:8001/osnet_b16 market1501/",
    ),
)
@click.argument("model")
@click.argument("data", nargs=-1, required=True, metavar="[NAME=]DATA...")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write evaluation.json, table.csv and report.html into DIR; of pairs result.json and roc.csv too.",
)
@click.option("--against", metavar="OTHER", help="Measure another model too; differences with 95 % intervals.")
@click.option(
    "--protocol",
    type=click.Choice(["retrieval", "verification", "classification"]),
    help="Default: what the labels allow.",
)
@click.option("--function", metavar="MODULE:NAME", help="An evaluation of your own: your function measures instead.")
@ranking_options
@pair_options
@click.option(
    "--roc",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CSV",
    help="Write the false and true accept rates of a verification to CSV.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="A quick look: N images of whole people, or N pairs."
)
@click.option("--no-flip", is_flag=True, help="Do not add the embedding of the mirror image.")
@batch_option(default="64")
@cache_option
@embedding_option
@size_option
@preprocessing_option
@value_option
@weights_option
@device_option
@output_options
def evaluate_command(
    output: Output,
    model: str,
    data: tuple[str, ...],
    folder: Path | None,
    against: str | None,
    protocol: Literal["retrieval", "verification", "classification"] | None,
    function: str | None,
    roc: Path | None,
    limit: int | None,
    no_flip: bool,
    batch: int | Literal["auto"],
    cache: Path | None,
    embedding: int,
    size: str | None,
    preprocessing: str,
    probe: tuple[str, ...],
    weights: Path | None,
    device: str,
    **others: Any,
) -> None:
    """Measure MODEL on DATA by retrieval (CMC, mAP, mINP) or verification (10-fold accuracy, TAR@FAR, EER, AUC).

    MODEL is an .onnx file, a bundle, a run folder or checkpoint, TorchScript, an exported program, a zoo name (random
    weights, or --weights) or triton://HOST:PORT/NAME.

    DATA is a folder (Market-1501 and the layouts in its form, MSMT17, train/ val/ test/, one sub-folder per identity,
    train.rec, .tar shards, or templates as of IJB: meta/ and loose_crop/), a file (.csv or .jsonl manifest, .rec
    records, .bin verification pairs, LFW's pairs.txt, .csv with a,b,same, .tar) or a generator such as
    synthetic-people:identities=60,seed=2,cameras=7. Several are measured one after the other, each by its NAME; what
    was measured is kept when a later one fails.
    """
    from ...finetune.embedding.embedders import open_embedder
    from ...finetune.evaluation.model_sets import EvaluationSettings, measure_sets
    from ...finetune.evaluation.ranks.ranking import Ranking

    asked, ranked = pair_options_of(others)
    sets = named_sets(data)
    options: dict[str, Any] = {"batch": batch, "device": device, "preprocessing": preprocessing}
    options |= {"output": embedding, "size": read_size(size), "probes": read_probes(probe)}
    schedule_for(model, against)
    embedder = open_embedder(model, weights=weights, **options)
    other = None if against is None else open_embedder(against, **options)
    _warn_of_random_weights({model: weights is not None, against or "": False})
    settings = EvaluationSettings(protocol, Ranking(**ranked), flip=not no_flip, limit=limit, function=function)
    progress = StageProgress(quiet=output.quiet)
    shown = ShownEvaluation(embedder, model, against, folder)
    calls: dict[str, Any] = {"cache": cache, "report": _noting(output), "progress": progress}
    found: Iterator[tuple[str, Measured, Measured | None, MeasuredPairs | None]]
    if asks_for_pairs(asked):
        beside = {"--against": against, "--function": function, "--roc": roc, "--rerank": ranked["rerank"]}
        found = measured_pairs(asked, embedder, model, sets, settings, device, beside | {"--weights": weights}, calls)
    else:
        measured_sets = measure_sets(embedder, sets, settings, against=other, roc=roc, **calls)
        found = ((name, measured, theirs, None) for name, measured, theirs in measured_sets)
    try:
        for name, measured, theirs, pairs in found:
            shown.add(name, measured, theirs, progress, pairs=pairs)
    finally:  # what was measured is kept, also when a later set is refused
        shown.emit(output, asked["similarity"] or roc)


def _noting(output: Output) -> Callable[[str], None]:
    """The function that prints a note on stderr, unless the command is quiet."""

    def note(line: str) -> None:
        if not output.quiet:
            click.echo(f"note: {line}", err=True)

    return note


def _warn_of_random_weights(weighted: Mapping[str, bool]) -> None:
    """Warn of each reference, and whether it was given weights, that is an architecture alone."""
    from ...finetune.evaluation.model_sets import random_weights_warning

    for reference, given in weighted.items():
        if warning := random_weights_warning(reference, weighted=given):
            click.echo(f"warning: {warning}", err=True)
