"""`rtool adapt`: a model learns the people of unlabelled crops."""

from __future__ import annotations

from pathlib import Path

import click

from ..embedding_options import cache_option
from ..output import Output, examples, output_options

__all__ = ["adapt_command"]


@click.command(
    "adapt",
    epilog=examples(
        "rtool adapt model.onnx crops/ -o adapted --rounds 2",
        "rtool adapt model.onnx crops/ -o adapted --evaluate market1501/ epochs=10",
        "rtool adapt osnet_x1_0 crops/ -o adapted --weights model.pth.tar --config recipe.yaml",
    ),
)
@click.argument("model")
@click.argument("crops")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the rounds.")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="Most rounds of training.")
@click.option("--evaluate", metavar="DATA", help="Labelled images on which each model is measured, and nothing else.")
@click.option("--weights", type=click.Path(path_type=Path), help="A state_dict (.pth) for a zoo name.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Recipe of rtool finetune.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the training.")
@click.option("--eps", default=0.4, show_default=True, help="Jaccard distance within which tracks join.")
@click.option("--partners", default=4, show_default=True, type=click.IntRange(1), help="Tracks expected per person.")
@click.option("--crops-per-track", default=16, show_default=True, type=click.IntRange(1), help="Best crops embedded.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N, for finding people.")
@cache_option
@output_options
def adapt_command(
    output: Output,
    model: str,
    crops: str,
    overrides: tuple[str, ...],
    folder: Path,
    rounds: int,
    evaluate: str | None,
    weights: Path | None,
    config: Path | None,
    seed: int,
    eps: float,
    partners: int,
    crops_per_track: int,
    device: str,
    cache: Path | None,
) -> None:
    """Adapt MODEL to the cameras of CROPS without labels: find people, train on them, and again.

    CROPS is what `rtool gallery` takes. KEY=VALUE changes a field of the training's configuration, such as epochs=10.
    The same command continues an adaptation that was interrupted.
    """
    from ...serving.gallery.adaptation import adapt
    from ...serving.gallery.settings import GallerySettings

    result = adapt(
        model,
        crops,
        folder,
        rounds=rounds,
        evaluate=evaluate,
        weights=weights,
        recipe=config,
        overrides=overrides,
        seed=seed,
        settings=GallerySettings(
            cluster="dbscan", eps=eps, partners=partners, crops=crops_per_track, device=device, cache=cache
        ),
        report=lambda line: None if output.quiet else click.echo(line, err=True),
    )
    rows = [(f"round {item.number}", str(item).partition(": ")[2]) for item in result.rounds]
    rows += [("stopped", result.stopped), ("best", f"round {result.best_round}: {result.model}")]
    output.emit(result, rows, artefact=Path(result.model) if result.best_round else result.report)
