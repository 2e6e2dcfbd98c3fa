"""`rtool distil`: a student learns the embeddings of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from ..errors import InputError
from .export import export_rows, step_table
from .output import Output, examples, output_options
from .training_output import emit_result, parse_processes, plan_rows

__all__ = ["distil_command"]

INT8 = "int8"
"""The STUDENT that is the teacher itself in int8."""


@click.command(
    "distil",
    epilog=examples(
        "rtool distil iresnet100.onnx mobilefacenet faces/ epochs=20",
        "rtool distil osnet_x1_0.onnx osnet_x0_25 photos/ --no-labels --evaluate market1501/",
        "rtool distil osnet_x0_25.onnx int8 photos/ -o osnet_x0_25_int8.onnx",
        "rtool distil triton://127.0.0.1:8001/reid osnet_x0_25 market1501/ 'distil.terms=[{kind: rkd_angle}]'",
    ),
)
@click.argument("teacher")
@click.argument("student")
@click.argument("data")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--no-labels", is_flag=True, help="DATA is any folder of images; nobody can be held out of it.")
@click.option("--evaluate", metavar="DATA", help="Labelled images to measure on; default: identities held out of DATA.")
@click.option(
    "--nproc", default="1", show_default=True, metavar="N|auto", help="Number of processes on this machine (DDP)."
)
@click.option(
    "--resume", metavar="auto|RUN", help="Continue a run folder or checkpoint; auto: the newest unfinished run."
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="STUDENT int8: the file to write.")
@click.option("--steps", type=click.IntRange(0), help="STUDENT int8: optimizer steps. [default: 300]")
@click.option("--images", type=click.IntRange(1), help="STUDENT int8: images of DATA to use. [default: 640]")
@click.option("--min-cosine", type=float, help="STUDENT int8: the gate. [default: 0.99]")
@click.option("--dry-run", is_flag=True, help="Try teacher, student and data, print the plan, and stop.")
@click.option("--no-progress", is_flag=True, help="Print occasional lines instead of a progress bar.")
@output_options
def distil_command(
    output: Output,
    teacher: str,
    student: str,
    data: str,
    overrides: tuple[str, ...],
    no_labels: bool,
    evaluate: str | None,
    nproc: str,
    resume: str | None,
    path: Path | None,
    steps: int | None,
    images: int | None,
    min_cosine: float | None,
    dry_run: bool,
    no_progress: bool,
) -> None:
    """Train STUDENT to reproduce the embeddings of TEACHER on the images of DATA, and print the run folder.

    TEACHER and STUDENT are model references; TEACHER may be triton://HOST:PORT/NAME, and STUDENT a fresh network of the
    zoo. KEY=VALUE changes a field of the configuration of `rtool finetune`, such as epochs=20 or model.size=[128,64];
    its section distil has all terms and takes several teachers, and losses add what labels teach.

    STUDENT int8 is TEACHER itself with every layer in int8, trained to reproduce its float32 outputs. DATA are any
    images then, and a file is written instead of a run folder.
    """
    quantised = {"--output": path, "--steps": steps, "--images": images, "--min-cosine": min_cosine}
    if student == INT8:
        trained = {"--evaluate": evaluate, "--resume": resume, "KEY=VALUE": overrides, "--dry-run": dry_run or None}
        _refuse_given(
            trained | {"--nproc": nproc if nproc != "1" else None}, "is of a run, and STUDENT int8 makes none"
        )
        _distil_int8(output, teacher, data, path, steps, images, min_cosine)
        return
    _refuse_given(quantised, "is for STUDENT int8")
    from ..converters.zoo.facts import check_reference
    from ..finetune.config.short_forms import distil_config

    processes = parse_processes(nproc)
    config = distil_config(teacher, student, data, overrides, labels=not no_labels, evaluate=evaluate)
    if resume is None:
        check_reference(config.model.reference)

    from ..finetune.finetuning import finetune
    from ..finetune.processes.launching import is_first_rank
    from ..finetune.training.planning import plan_run

    if dry_run:
        plan = plan_run(config, nproc=processes)
        output.emit(plan, plan_rows(plan), artefact=plan.output)
        return
    quiet = output.quiet or output.as_json
    result = finetune(config, nproc=processes, resume=resume, quiet=quiet, progress=not no_progress)
    if is_first_rank():  # under torchrun, one process prints the result
        emit_result(output, result)


def _refuse_given(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        InputError: one was given.
    """
    given = next((name for name, value in options.items() if value not in (None, ())), None)
    if given is not None:
        raise InputError(f"distil: {given} {reason}; leave it out")


def _distil_int8(
    output: Output,
    model: str,
    data: str,
    path: Path | None,
    steps: int | None,
    images: int | None,
    min_cosine: float | None,
) -> None:
    from ..finetune.distillation.quantised.int8_distilling import Int8Training, distil_int8

    result = distil_int8(
        model,
        data,
        path,
        images=640 if images is None else images,
        training=Int8Training() if steps is None else Int8Training(steps=steps),
        min_cosine=min_cosine,
        report=None if output.quiet or output.as_json else lambda line: click.echo(line, err=True),
    )
    output.emit(
        result, export_rows(result), artefact=result.path, tables=() if output.as_json else (step_table(result),)
    )
