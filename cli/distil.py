"""`rtool distil`: a student learns what a teacher says."""

from __future__ import annotations

import click

from .output import Output, examples, output_options
from .training_output import emit_result, parse_processes, plan_rows

__all__ = ["distil_command"]


@click.command(
    "distil",
    epilog=examples(
        "rtool distil iresnet100.onnx mobilefacenet faces/ epochs=20",
        "rtool distil osnet_x1_0.onnx osnet_x0_25 photos/ --no-labels --evaluate market1501/",
        "rtool distil triton://127.0.0.1:8001/reid osnet_x0_25 market1501/ 'distil.terms=[{kind: rkd_angle}]'",
    ),
)
@click.argument("teacher")
@click.argument("student")
@click.argument("data")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--no-labels", is_flag=True, help="Use no labels of DATA, which may be any folder of images.")
@click.option("--evaluate", metavar="DATA", help="Labelled images to measure on; default: identities held out of DATA.")
@click.option(
    "--nproc", default="1", show_default=True, metavar="N|auto", help="Number of processes on this machine (DDP)."
)
@click.option(
    "--resume", metavar="auto|RUN", help="Continue a run folder or checkpoint; auto: the newest unfinished run."
)
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
    dry_run: bool,
    no_progress: bool,
) -> None:
    """Train STUDENT to give the embeddings that TEACHER gives of the images of DATA, and print the run folder.

    TEACHER and STUDENT are model references; TEACHER may be triton://HOST:PORT/NAME, and STUDENT a fresh network of the
    zoo. KEY=VALUE changes a field of the configuration of `rtool finetune`, such as epochs=20 or model.size=[128,64];
    its section distil has all terms, and takes several teachers.
    """
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
