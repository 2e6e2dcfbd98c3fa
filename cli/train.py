"""`rtool finetune` and `rtool evaluate`: train any model reference, measure any model reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..errors import InputError
from .output import Output, examples, output_options

if TYPE_CHECKING:
    from ..finetune.planning import RunPlan

__all__ = ["evaluate_command", "finetune_command"]


@click.command(
    "finetune",
    epilog=examples(
        "rtool finetune examples/osnet_x0_25_synthetic.yaml",
        "rtool finetune examples/demo.yaml model.reference=model.onnx optimizer.lr=1e-3 --nproc 2",
        "rtool finetune examples/demo.yaml --resume auto",
    ),
)
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--nproc", default="1", show_default=True, metavar="N|auto", help="Processes on this machine (DDP).")
@click.option("--resume", metavar="auto|RUN", help="Go on with a run folder, or with the newest unfinished one.")
@click.option("--dry-run", is_flag=True, help="Print plan, shapes and memory estimate, and stop.")
@output_options
def finetune_command(
    output: Output, config: Path, overrides: tuple[str, ...], nproc: str, resume: str | None, dry_run: bool
) -> None:
    """Fine-tune the model that CONFIG names; the run folder is printed last.

    KEY=VALUE changes a field of the configuration, such as optimizer.lr=1e-4 or losses.0.margin=soft.
    """
    from ..finetune.config_files import load_config
    from ..finetune.finetuning import finetune
    from ..finetune.planning import plan_run

    processes = _processes(nproc)
    if dry_run:
        plan = plan_run(load_config(config, overrides), nproc=1 if processes == "auto" else processes)
        output.emit(plan, _plan_rows(plan), artefact=plan.output)
        return
    result = finetune(config, overrides, nproc=processes, resume=resume, quiet=output.quiet or output.as_json)
    rows = [
        ("epochs", f"{result.epochs} ({result.steps} steps, {result.skipped_steps} skipped)"),
        *((name, f"{value:.4f}") for name, value in result.metrics.items() if isinstance(value, float)),
        ("images/s", f"{result.images_per_second:.0f}"),
    ]
    if not result.finished:
        rows.append(("stopped", "by SIGTERM; go on with --resume auto"))
    output.emit(result, rows, artefact=result.run_dir)


@click.command(
    "evaluate",
    epilog=examples(
        "rtool evaluate model.onnx market1501/",
        "rtool evaluate runs/demo/20260101-120000 synthetic-people:identities=60,seed=2,cameras=7",
        "rtool evaluate iresnet.onnx faces/ --protocol verification --size 112x112",
    ),
)
@click.argument("model")
@click.argument("data")
@click.option("--protocol", type=click.Choice(["retrieval", "verification"]), help="By default what the labels allow.")
@click.option("--no-flip", is_flag=True, help="Do not add the embedding of the mirror image.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Images embedded at a time.")
@click.option("--embedding", default=0, show_default=True, help="Which output of the model is the embedding.")
@click.option("--size", metavar="HxW", help="Input size, for models that do not say.")
@click.option(
    "--preprocessing",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "imagenet", "arcface"]),
    help="Normalisation, for models that do not say.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@output_options
def evaluate_command(
    output: Output,
    model: str,
    data: str,
    protocol: Literal["retrieval", "verification"] | None,
    no_flip: bool,
    batch: int,
    embedding: int,
    size: str | None,
    preprocessing: Literal["auto", "imagenet", "arcface"],
    device: str,
) -> None:
    """Measure MODEL on DATA: CMC, mAP and mINP, or 10-fold verification and TAR@FAR.

    DATA is a folder (Market-1501 layout, or one sub-folder an identity) or a generator such as
    synthetic-people:identities=60,seed=2,cameras=7.
    """
    from ..finetune.evaluation import evaluate

    result = evaluate(
        model,
        data,
        protocol=protocol,
        flip=not no_flip,
        batch=batch,
        output=embedding,
        device=device,
        preprocessing=preprocessing,
        size=_size(size),
    )
    values = vars(result).items()
    rows = [(name, f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in values]
    output.emit({"protocol": result.protocol, **vars(result)}, [("protocol", result.protocol), *rows])


def _processes(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--nproc {text}: expected a number from 1 on, or auto")
    return int(text)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH, such as 256x128")
    return int(height), int(width)


def _plan_rows(plan: RunPlan) -> list[tuple[str, str]]:
    return [
        ("model", f"{plan.model}, {plan.parameters:,} parameters, heads {plan.head_parameters:,}"),
        ("input", "x".join(map(str, plan.input)) + f" -> {plan.embedding}"),
        ("train", f"{plan.train_images} images of {plan.train_identities} identities"),
        ("held out", f"{plan.held_out_images} images of {plan.held_out_identities} identities"),
        ("steps", f"{plan.epochs} epochs of {plan.steps_per_epoch}, {plan.processes} x {plan.batch} images each"),
        ("device", f"{plan.device}, about {plan.memory / 1e6:.0f} MB a process"),
        ("output", str(plan.output)),
    ]
