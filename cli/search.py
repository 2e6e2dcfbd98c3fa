"""`rtool search`: cells for a network, with the data and losses of a configuration."""

from __future__ import annotations

from pathlib import Path

import click

from .output import Output, examples, output_options
from .training_output import emit_result, parse_processes, plan_rows

__all__ = ["search_command"]


@click.command(
    "search",
    epilog=examples(
        "rtool search examples/search_demo.yaml",
        "rtool search examples/reid.yaml search.method=partial search.shortlist=4 --dry-run",
        "rtool search examples/search_demo.yaml --resume auto",
    ),
)
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--nproc", default="1", show_default=True, metavar="N|auto", help="Number of processes on this machine (DDP)."
)
@click.option(
    "--resume", metavar="auto|RUN", help="Continue a run folder or checkpoint; auto: the newest unfinished run."
)
@click.option("--dry-run", is_flag=True, help="Print the plan, shapes and a memory estimate, and stop.")
@click.option("--no-progress", is_flag=True, help="Print occasional lines instead of a progress bar.")
@output_options
def search_command(
    output: Output,
    config: Path,
    overrides: tuple[str, ...],
    nproc: str,
    resume: str | None,
    dry_run: bool,
    no_progress: bool,
) -> None:
    """Search cells with the data, losses and optimizer of CONFIG, and print the run folder.

    Short for `rtool finetune CONFIG` with a section search; of a CONFIG without one, the model is replaced by the
    supernet. RUN/search/genotype.json has the found cell, which is trained from fresh weights by `rtool finetune CONFIG
    model.reference=searched 'model.options={genotype: RUN/search/genotype.json}' search=null`.
    """
    from ..finetune.config.short_forms import search_config

    processes = parse_processes(nproc)
    resolved = search_config(config, overrides)  # a wrong one is refused before torch is loaded

    from ..finetune.finetuning import finetune
    from ..finetune.processes.launching import is_first_rank
    from ..finetune.training.planning import plan_run

    if dry_run:
        plan = plan_run(resolved, nproc=processes)
        output.emit(plan, plan_rows(plan), artefact=plan.output)
        return
    quiet = output.quiet or output.as_json
    result = finetune(resolved, nproc=processes, resume=resume, quiet=quiet, progress=not no_progress)
    if is_first_rank():  # under torchrun, one process prints the result
        emit_result(output, result)
