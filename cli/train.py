"""`rtool finetune` and `rtool config`: train a model, write configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..errors import InputError
from .output import Output, examples, output_options
from .training_output import emit_result, parse_processes, plan_rows

if TYPE_CHECKING:
    from ..finetune.config.config import FinetuneConfig


__all__ = ["config_group", "finetune_command"]

_SEVERAL_NODES = """

\b
Several nodes: the same command on each (N from 0), with `output` in a folder that all share:
  torchrun --nnodes 2 --node-rank N --nproc-per-node 8 --rdzv-backend c10d \\
    --rdzv-endpoint HOST:29500 --rdzv-id JOB -m rtool finetune cfg.yaml --resume auto"""


@click.command(
    "finetune",
    epilog=examples(
        "rtool finetune examples/osnet_x0_25_synthetic.yaml",
        "rtool finetune examples/demo.yaml model.reference=model.onnx optimizer.lr=1e-3 --nproc 2",
        "rtool finetune examples/demo.yaml --resume auto",
    )
    + _SEVERAL_NODES,
)
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--nproc", default="1", show_default=True, metavar="N|auto", help="Number of processes on this machine (DDP)."
)
@click.option(
    "--resume",
    metavar="auto|RUN",
    help="Continue a run folder or checkpoint; auto: the newest unfinished run, else a new one.",
)
@click.option(
    "--resume-with",
    metavar="data,seed,evaluation",
    help="Changes since the run was stopped that are accepted; others are refused, and the best metric starts again.",
)
@click.option(
    "--show-batch",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Write the first augmented batch as an image to PNG, and stop.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, shapes and a memory estimate, and stop.")
@click.option("--no-progress", is_flag=True, help="Print occasional lines instead of a progress bar.")
@output_options
def finetune_command(
    output: Output,
    config: Path,
    overrides: tuple[str, ...],
    nproc: str,
    resume: str | None,
    resume_with: str | None,
    show_batch: Path | None,
    dry_run: bool,
    no_progress: bool,
) -> None:
    """Fine-tune the model that CONFIG names, and print the run folder.

    KEY=VALUE changes a field of the configuration, such as optimizer.lr=1e-4 or losses.0.margin=soft, and KEY+=VALUE
    appends to a list, such as losses+='{kind: triplet}'; `rtool config show` lists the fields. Ctrl-C and SIGTERM save
    a checkpoint and stop; --resume auto continues.
    """
    from ..converters.zoo.facts import check_reference
    from ..finetune.config.files import load_config

    processes = parse_processes(nproc)
    resolved = load_config(config, overrides)  # a wrong one is refused before torch is loaded
    if resume is None:
        check_reference(resolved.model.reference)

    from ..finetune.finetuning import finetune
    from ..finetune.processes.launching import is_first_rank
    from ..finetune.training.planning import plan_run

    if show_batch is not None:
        _show_batch(output, resolved, show_batch, processes)
        return
    if dry_run:
        plan = plan_run(resolved, nproc=processes)
        output.emit(plan, plan_rows(plan), artefact=plan.output)
        return
    result = finetune(
        resolved,
        nproc=processes,
        resume=resume,
        resume_with=() if resume_with is None else [name.strip() for name in resume_with.split(",")],
        quiet=output.quiet or output.as_json,
        progress=not no_progress,
    )
    if not is_first_rank():  # under torchrun, one process prints the result
        return
    emit_result(output, result)


@click.group("config")
def config_group() -> None:
    """Show, check, create and convert configurations of `rtool finetune`."""


@config_group.command(
    "show",
    short_help="Print every field with its value and meaning.",
    epilog=examples(
        "rtool config show",
        "rtool config show --losses",
        "rtool config show examples/demo.yaml optimizer.lr=1e-4",
    ),
)
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--losses", is_flag=True, help="Show all kinds of losses with their fields instead.")
@click.option("--distil", is_flag=True, help="Show the section distil with all its fields instead.")
@click.option("--search", is_flag=True, help="Show the section search with all its fields instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the values alone.")
def config_show_command(
    config: Path | None, overrides: tuple[str, ...], losses: bool, distil: bool, search: bool, as_json: bool
) -> None:
    """Print every field with its value and meaning: of CONFIG, or the defaults."""
    from ..finetune.config.calls import show

    pages = [f"--{name}" for name, asked in (("losses", losses), ("distil", distil), ("search", search)) if asked]
    if len(pages) > 1:
        raise click.UsageError(f"{' and '.join(pages)} are {len(pages)} pages; ask for one")
    page = show(config, overrides, losses=losses, distil=distil, search=search)
    if as_json:
        if pages:
            raise click.UsageError(f"{pages[0]} is a page to read; it has no --json")
        Output(as_json=True, quiet=False).emit(page.config.model_dump(mode="json"))
        return
    click.echo(page.text, nl=False)


@config_group.command(
    "check",
    short_help="Check a configuration, and name settings without effect.",
    epilog=examples("rtool config check examples/demo.yaml", "rtool config check cfg.yaml schedule.kind=multistep"),
)
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@output_options
def config_check_command(output: Output, config: Path, overrides: tuple[str, ...]) -> None:
    """Check CONFIG, and name settings that have no effect.

    Model and data are not read; `rtool finetune --dry-run` checks them too.
    """
    from ..finetune.config.calls import check

    found = check(config, overrides)
    rows = [("note", line) for line in found.without_effect]
    values = {"config": config, "without_effect": found.without_effect}
    output.emit(values, rows or [("checked", "every setting that follows from the file alone has an effect")])


@config_group.command(
    "init", epilog=examples("rtool config init", "rtool config init finetune.yaml && rtool finetune finetune.yaml")
)
@click.argument("path", default="finetune.yaml", type=click.Path(path_type=Path, dir_okay=False))
@output_options
def config_init_command(output: Output, path: Path) -> None:
    """Write a commented configuration to PATH, for editing."""
    from ..finetune.config.calls import init

    written = init(path)
    output.emit({"config": written.path}, artefact=written.path)


@config_group.command(
    "convert",
    short_help="Convert the configuration of another trainer.",
    epilog=examples(
        "rtool config convert configs/ms1mv3_r50.py -o faces.yaml && rtool finetune faces.yaml",
        "rtool config convert configs/Market1501/bagtricks_R50.yml -o reid.yaml",
        "rtool config convert train.sh --from torchreid -o osnet.yaml",
        "rtool config convert params.json",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--from",
    "trainer",
    type=click.Choice(["auto", "arcface_torch", "fastreid", "torchreid", "params_json"]),
    default="auto",
    show_default=True,
    help="Whose configuration FILE is; auto finds it by its form.",
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path, dir_okay=False), help="Default: FILE.yaml.")
@output_options
def config_convert_command(
    output: Output,
    file: Path,
    trainer: Literal["auto", "arcface_torch", "fastreid", "torchreid", "params_json"],
    path: Path | None,
) -> None:
    """Convert FILE, a configuration of another trainer; nothing of it is executed.

    FILE is a Python configuration of arcface_torch, YAML of fast-reid, a command or YAML of torchreid, or the
    params.json of older re-ID trainers. Every key is listed: converted, approximated or left out, with the reason.
    """
    from ..finetune.config.calls import convert

    written = convert(file, path, trainer)
    rows = [(key.key, f"{key.fate}: {key.note}") for key in written.keys]
    if written.nproc is not None:
        rows.append(("start with", f"rtool finetune {written.path} --nproc {written.nproc}"))
    values = {
        "config": written.path,
        "left_out": written.left_out,
        "nproc": written.nproc,
        "keys": [vars(key) for key in written.keys],
    }
    output.emit(values, rows, artefact=written.path)


def _processes(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--nproc {text}: expected a whole number from 1, or auto")
    return int(text)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH, such as 256x128")
    return int(height), int(width)


def _show_batch(output: Output, config: FinetuneConfig, path: Path, processes: int | Literal["auto"]) -> None:
    from ..finetune.training.contact_sheet import draw_first_batch

    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    sheet = draw_first_batch(config, nproc=processes)
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    output.emit({"sheet": path, "width": sheet.width, "height": sheet.height}, artefact=path)
