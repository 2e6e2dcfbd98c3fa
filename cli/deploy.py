"""`rtool deploy` and `rtool serve`: publish a model in a Triton repository, and run Triton on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..errors import InputError, PlatformError
from .output import Output, examples, output_options
from .preprocessing import preprocessing_option

if TYPE_CHECKING:
    from ..serving.repository.deployed import DeployResult
    from ..serving.server.server import TritonServer

__all__ = ["deploy_command", "serve_command"]


class _Batch(click.ParamType[Any]):
    name = "N|dynamic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "dynamic" or isinstance(value, int):
            return value
        if not str(value).isdigit() or int(value) < 1:
            self.fail(f"expected a number of 1 or more, or 'dynamic', got {value!r}", param, ctx)
        return int(value)


@click.command(
    "deploy",
    epilog=examples(
        "rtool deploy osnet.onnx --name osnet_b16 --batch 16",
        "rtool deploy arcface.onnx --name arcface --batch dynamic --max-batch 64 --url 127.0.0.1:8001",
        "rtool deploy --rollback --name osnet_b16",
    ),
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name on the server.")
@click.option("--batch", type=_Batch(), help="Batch that the graph must have.  [default: any]")
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="Triton model repository; created if absent.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Device of the default configuration; auto keeps the present one, else a GPU if there is one.",
)
@click.option("--max-batch", type=int, help="Largest batch that the server forms.  [default: as served, 64]")
@click.option("--max-delay", type=float, help="Milliseconds for which a batch waits to fill.  [default: as served, 2]")
@click.option("--instances", type=int, help="Sessions in parallel.  [default: as served, 1]")
@click.option("--threads", type=int, help="CPU threads per session.  [default: as served, cores / instances]")
@click.option(
    "--queue-timeout",
    type=float,
    help="Milliseconds after which a queued request is rejected.  [default: as served, never]",
)
@click.option(
    "--also-serve", type=int, multiple=True, help="An older version to serve beside the new one; may be repeated."
)
@click.option(
    "--warmup",
    type=click.Path(path_type=Path),
    help="Inputs to warm up with: .npy, or .npz with one array per input name.",
)
@click.option(
    "--url",
    help="host:port (gRPC) of a running server: try the version there unseen, compare its outputs, then serve it.",
)
@click.option("--keep", type=int, help="Remove versions that are neither served nor among the newest N (at least 2).")
@click.option(
    "--keep-metadata",
    is_flag=True,
    help="Also publish the stack traces and file paths that exporters left in the file.",
)
@preprocessing_option
@click.option(
    "--force",
    is_flag=True,
    help="Publish a file without the manifest of an export that passed its gates; recorded.",
)
@click.option(
    "--new-contract",
    is_flag=True,
    help="Allow other inputs, outputs, rows per request or preprocessing than those that are served.",
)
@click.option(
    "--packer-for",
    metavar="TARGET",
    help="Publish a packer, which accepts single rows for the model TARGET with a fixed batch.",
)
@click.option("--rollback", is_flag=True, help="Serve the previous version again.")
@click.option("--check", is_flag=True, help="Check the published model NAME, as `rtool serve --check` does.")
@click.option("--to", type=int, help="With --rollback: the version to serve.")
@output_options
def deploy_command(
    model: Path | None,
    name: str,
    repository: Path,
    url: str | None,
    packer_for: str | None,
    rollback: bool,
    check: bool,
    to: int | None,
    also_serve: tuple[int, ...],
    warmup: Path | None,
    output: Output,
    **options: Any,
) -> None:
    """Publish MODEL (an .onnx file) as the next version of a model in a Triton repository.

    The file is checked and run first; then the version appears as a whole, or not at all. A setting that is given
    changes that setting alone: the others stay as they are served, hand edits included.
    """
    from ..serving.publishing.packing import deploy_packer
    from ..serving.publishing.publishing import deploy as publish
    from ..serving.publishing.rolling_back import rollback as roll_back
    from ..serving.repository.serving_settings import ServingSettings

    if check:
        _check_published(repository, name, output, others=(model, rollback or None, packer_for))
        return
    given = {key: options[key] for key in ServingSettings.__dataclass_fields__ if options.get(key) is not None}
    new_contract = bool(options["new_contract"])
    if rollback:
        if model is not None:
            raise InputError(f"{model}: --rollback accepts no MODEL; it serves a version that is already published")
        _refuse_others("--rollback", {"to", "url", "new_contract"})
        _report(roll_back(name, repository=repository, to=to, url=url, new_contract=new_contract), output)
        return
    if packer_for is not None and model is None:
        _refuse_others("--packer-for", {"max_delay", "instances", "new_contract"})
        _report(deploy_packer(packer_for, name=name, repository=repository, new_contract=new_contract, **given), output)
        return
    if model is None or to is not None or packer_for is not None:
        raise InputError(
            "deploy: give either a MODEL to publish, or --packer-for TARGET, or --rollback (--to works only with it)"
        )
    published = publish(
        model,
        name=name,
        repository=repository,
        batch=options["batch"],
        device=options["device"],
        settings=ServingSettings(**given) if given else None,
        also_serve=also_serve,
        warmup=warmup,
        url=url,
        keep=options["keep"],
        keep_metadata=options["keep_metadata"],
        preprocessing=options["preprocessing"],
        force=options["force"],
        new_contract=new_contract,
    )
    _report(published, output)


def _check_published(repository: Path, name: str, output: Output, others: tuple[object, ...]) -> None:
    if any(other is not None for other in others):
        raise InputError("deploy --check: checks what is published; give it --name and --repository alone")
    _check(repository, [name], None, "26.07", output)


def _refuse_others(mode: str, applicable: set[str]) -> None:
    """Refuse options that are given and would have no effect with `mode`.

    Raises:
        InputError: there are some; the message names each.
    """
    context = click.get_current_context()
    everywhere = {"model", "name", "repository", "output", "as_json", "quiet", mode.strip("-").replace("-", "_")}
    useless = [
        str(parameter.opts[0])
        for parameter in context.command.params
        if parameter.name is not None
        and parameter.name not in applicable | everywhere
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if useless:
        raise InputError(f"deploy: {', '.join(useless)} would have no effect with {mode}; leave them out")


def _report(result: DeployResult, output: Output) -> None:
    rows: list[tuple[str, Any]] = [
        ("model", f"{result.name} version {result.version}"),
        ("serves", ", ".join(map(str, result.served))),
        ("before", result.previous if result.previous is not None else "(new)"),
        ("batch", result.batch if result.batch is not None else "dynamic"),
        ("device", result.device),
        ("sha256", result.sha256[:16]),
        *([("preprocessing", result.preprocessing)] if result.preprocessing else []),
        *([("server", str(result.server))] if result.server is not None else []),
        *(("note", note) for note in result.notes),
    ]
    output.emit(result, rows, artefact=result.path)


@click.command(
    "serve",
    epilog=examples(
        "rtool serve",
        "rtool serve model_repository --model osnet_x0_25_b16 --grpc-port 9001",
        "rtool serve model_repository --container --dry-run",
    ),
)
@click.argument("repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--model", "models", multiple=True, help="Serve only this model; may be repeated.")
@click.option("--config-name", help="Serve configs/NAME.pbtxt, e.g. cpu or gpu, where a model has it.")
@click.option(
    "--control",
    type=click.Choice(["explicit", "none", "poll"]),
    help="explicit: load models on request of this user; poll: reload what changes; none: load everything once.  "
    "[default: explicit; none with --container]",
)
@click.option("--http-port", type=int, default=8000, show_default=True, help="0 selects a free port, here and below.")
@click.option("--grpc-port", type=int, default=8001, show_default=True)
@click.option("--metrics-port", type=int, default=8002, show_default=True)
@click.option(
    "--timeout", type=float, default=120.0, show_default=True, help="Seconds within which the server must be ready."
)
@click.option("--log", type=click.Path(path_type=Path), help="Append the server's log to this file.")
@click.option("--check", is_flag=True, help="Check the repository without a server; exit code 1 on problems.")
@click.option("--target", default="26.07", show_default=True, help="With --check: the Triton release to serve it.")
@click.option("--container", is_flag=True, help="Serve with docker from NVIDIA's image; not tried.")
@click.option("--dry-run", is_flag=True, help="Print the server's command line and exit.")
@output_options
def serve_command(
    repository: Path,
    models: tuple[str, ...],
    config_name: str | None,
    control: Literal["explicit", "none", "poll"] | None,
    check: bool,
    target: str,
    container: bool,
    dry_run: bool,
    log: Path | None,
    timeout: float,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    output: Output,
) -> None:
    """Run Triton on REPOSITORY, on 127.0.0.1, until Ctrl-C.

    Runs the tritonserver on PATH, else an embedded one, which is downloaded on first use (55 MB).
    """
    from ..serving.repository import validation
    from ..serving.server import foreground, server

    if check:
        _check(repository, models or None, config_name, target, output)
        return
    control = control or ("none" if container else "explicit")
    if not models and (control == "explicit" or container):
        validation.servable_models(repository)
        for problem in validation.placeholders(repository):
            click.echo(f"not served: {problem}", err=True)
    if container:
        _run_container(repository, models, config_name, control, (http_port, grpc_port, metrics_port), dry_run, output)
        return
    ports: dict[str, Any] = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    if dry_run:
        planned = server.TritonServer(
            repository, models=models or None, control=control, config_name=config_name, **ports
        )
        _print_command(server.dry_run(planned), output)
        return
    result = foreground.serve(
        repository,
        models=models or None,
        control=control,
        config_name=config_name,
        timeout=timeout,
        log=log,
        on_ready=_announce_json if output.as_json else _announce_url if output.quiet else _announce,
        on_event=lambda line: click.echo(line, err=True),
        **ports,
    )
    if not output.as_json:
        output.emit(result)


def _print_command(command: str, output: Output) -> None:
    if output.as_json:
        output.emit({"command": command})
    else:
        click.echo(command)


def _announce_url(server: TritonServer) -> None:
    click.echo(server.url)


def _announce_json(server: TritonServer) -> None:
    """Print one JSON object once the server is ready, for scripts that need its ports; nothing else goes to stdout."""
    ready = {"url": server.url, "http_url": server.http_url, "metrics_url": server.metrics_url}
    more = {"models": list(server.models), "ready_seconds": server.ready_seconds, "release_note": server.release_note}
    click.echo(json.dumps(ready | more, indent=2))


def _announce(server: TritonServer) -> None:
    click.echo(f"ready in {server.ready_seconds:.1f} s: {', '.join(server.models)}")
    click.echo(f"  gRPC     {server.url}       (triton://{server.url}/{server.models[0]})")
    click.echo(f"  HTTP     http://{server.http_url}")
    click.echo(f"  metrics  http://{server.metrics_url}/metrics")
    if server.release_note:
        click.echo(f"  release  {server.release_note}")
    click.echo("Ctrl-C stops it.")


def _check(
    repository: Path, models: Sequence[str] | None, config_name: str | None, target: str, output: Output
) -> None:
    """The repository's own problems and those with the target release; a second line on the embedded server."""
    from ..errors import GateError
    from ..serving.publishing.release_check import check_release
    from ..serving.releases.advisories import EXEMPT
    from ..serving.repository.validation import validate_repository

    problems = [str(problem) for problem in validate_repository(repository, models, config_name=config_name)]
    fits = [check_release(repository, models, release=target, config_name=config_name)]
    fits += [check_release(repository, models, release=name, config_name=config_name, embedded=True) for name in EXEMPT]
    problems += [f"{repository}: Triton {target}: {problem}" for problem in fits[0].refused]
    rows = [("problems", len(problems)), ("target", str(fits[0])), *(("embedded", str(fit)) for fit in fits[1:])]
    output.emit({"problems": problems, "target": fits[0], "embedded": fits[1:]}, rows)
    if problems:
        raise GateError("\n".join(problems))


def _run_container(
    repository: Path,
    models: tuple[str, ...],
    config_name: str | None,
    control: str,
    ports: tuple[int, int, int],
    dry_run: bool,
    output: Output,
) -> None:
    import shlex

    from ..serving.repository.devices import gpu_present
    from ..serving.repository.validation import servable_models
    from ..serving.server.container import container_command, run_container

    command = container_command(
        repository,
        models=models or servable_models(repository),
        control=control,
        config_name=config_name,
        ports=ports,
        gpu=config_name == "gpu" or (config_name is None and gpu_present()),
    )
    _print_command(shlex.join(command), output)
    if not dry_run and (code := run_container(command, repository=repository, ports=ports)) != 0:
        raise PlatformError(f"docker ended with exit code {code}; see its output above")
