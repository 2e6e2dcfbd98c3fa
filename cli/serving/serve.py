"""`rtool serve`: run Triton on a model repository, in the foreground or detached, and look after it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ...errors import GateError, InputError
from ..output import Output, examples, output_options

if TYPE_CHECKING:
    from ...serving.server.command import Control
    from ...serving.server.server import TritonServer
    from ...serving.service.overview import ServiceState
    from ...serving.service.records import ServiceRecord

__all__ = ["report_check", "serve_command"]

_DEFAULT = Path("model_repository")


@click.command(
    "serve",
    epilog=examples(
        "rtool serve",
        "rtool serve model_repository --model osnet_x0_25_b16 --grpc-port 9001",
        "rtool serve model_repository --detach",
        "rtool serve --status",
        "rtool serve model_repository --container --dry-run",
    ),
)
@click.argument("repository", required=False)
@click.option("--model", "models", multiple=True, help="Serve only this model; may be repeated.")
@click.option("--config-name", help="Serve configs/NAME.pbtxt, e.g. cpu, gpu or trt, where a model has it.")
@click.option(
    "--control",
    type=click.Choice(["explicit", "none", "poll"]),
    help="explicit: load models on request of this user; poll: reload what changes; none: load everything once.  "
    "[default: explicit; none with a container]",
)
@click.option("--http-port", type=int, default=8000, show_default=True, help="0 selects a free port, here and below.")
@click.option("--grpc-port", type=int, default=8001, show_default=True)
@click.option("--metrics-port", type=int, default=8002, show_default=True)
@click.option(
    "--timeout", type=float, default=120.0, show_default=True, help="Seconds within which the server must be ready."
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    help="Append the server's log to this file; at 64 MB a new one is begun, and the old one is FILE.1.",
)
@click.option("--detach", is_flag=True, help="Return when the server is ready, and print its id; it goes on.")
@click.option(
    "--status",
    is_flag=True,
    help="This user's servers, or those of REPOSITORY (or an id): exit code 1 if one is not ready, or there is none.",
)
@click.option("--stop", is_flag=True, help="Stop the server of REPOSITORY (or an id), or the only one.")
@click.option("--logs", is_flag=True, help="Print the end of the server's log.")
@click.option("--check", is_flag=True, help="Check the repository without a server; exit code 1 on problems.")
@click.option("--target", default="26.07", show_default=True, help="With --check: the Triton release to serve it.")
@click.option(
    "--runtime",
    type=click.Choice(["path", "container", "embedded"]),
    help="Which server: tritonserver on PATH, NVIDIA's container (docker), the embedded one.  [default: the first "
    "that is there]",
)
@click.option("--container", is_flag=True, help="The same as --runtime container.")
@click.option("--dry-run", is_flag=True, help="Print the server's command line and exit.")
@output_options
def serve_command(
    repository: str | None,
    output: Output,
    check: bool,
    target: str,
    status: bool,
    stop: bool,
    logs: bool,
    **options: Any,
) -> None:
    """Run Triton on REPOSITORY, on 127.0.0.1, until Ctrl-C.

    Runs the tritonserver on PATH, else NVIDIA's container where docker runs and has the image, else an embedded server,
    which is downloaded on first use (55 MB).
    """
    _refuse_combinations()
    if status or stop or logs:
        _look_after(repository, "status" if status else "stop" if stop else "logs", output)
        return
    folder = Path(repository) if repository is not None else _DEFAULT
    if check:
        report_check(folder, options["models"] or None, options["config_name"], target, output)
    elif options["detach"]:
        _detach(folder, options, output)
    else:
        _serve(folder, options, output)


_MODES = {"status": set[str](), "stop": set[str](), "logs": set[str](), "check": {"models", "config_name", "target"}}
"""Options that do something else than serving -> those that they can be combined with."""


def _refuse_combinations() -> None:
    """Refuse two modes at once, and options that would have no effect.

    Raises:
        InputError: the message names them.
    """
    context = click.get_current_context()
    given = {
        str(parameter.name): str(parameter.opts[0])
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    }
    modes = [name for name in (*_MODES, "detach", "dry_run") if name in given]
    if len(modes) > 1:
        raise InputError(f"serve: {', '.join(given[name] for name in modes)} are different commands; give one")
    allowed = _MODES.get(modes[0]) if modes else None
    if allowed is None:
        useless = [given[name] for name in given if name == "target"]
        mode = "serving; it belongs to --check"
    else:
        useless = [given[name] for name in given if name not in {*allowed, modes[0], "as_json", "quiet"}]
        mode = given[modes[0]]
    if useless:
        raise InputError(f"serve: {', '.join(useless)} would have no effect with {mode}; leave it out")


def _look_after(asked: str | None, what: Literal["status", "stop", "logs"], output: Output) -> None:
    from ...serving.service import overview

    if what == "status":
        _report_states(overview.service_states(asked), asked, output)
    elif what == "stop":
        stopped = overview.stop_service(asked)
        how = "killed, because it did not end by itself" if stopped.killed else f"stopped in {stopped.seconds:.1f} s"
        output.emit(stopped, [(stopped.service.id, how)], brief=stopped.service.id)
    else:
        log = overview.service_log(asked)
        if output.as_json:
            output.emit(log)
        else:
            click.echo("\n".join(log.lines))


def _report_states(states: Sequence[ServiceState], asked: str | None, output: Output) -> None:
    rows = []
    for state in states:
        service = state.service
        rows.append((service.id, f"{state.state}, {service.kind}, gRPC {service.url}, {', '.join(service.models)}"))
        rows.append(("", f"{service.repository}, process {service.pid}, {service.restarts} restarts"))
        if service.last_event:
            rows.append(("", f"last event: {service.last_event}"))
    output.emit({"services": states}, rows, brief="\n".join(f"{one.service.id} {one.state}" for one in states))
    if not states:
        raise GateError(f"no server{f' of {asked}' if asked else ''} runs; start one with `rtool serve --detach`")
    if down := [f"{one.service.id} is {one.state}" for one in states if one.state != "ready"]:
        raise GateError("; ".join(down))


def _detach(repository: Path, options: dict[str, Any], output: Output) -> None:
    from ...serving.service.detaching import detach

    if options["log"] is not None:
        raise InputError("serve --detach: keeps its log where `rtool serve --logs` finds it; leave --log out")
    arguments = ["--timeout", str(options["timeout"])]
    arguments += [part for model in options["models"] for part in ("--model", model)]
    for name in ("config_name", "control", "http_port", "grpc_port", "metrics_port", "runtime"):
        if options[name] is not None:
            arguments += [f"--{name.replace('_', '-')}", str(options[name])]
    arguments += ["--container"] if options["container"] else []
    record = detach(repository, arguments, timeout=options["timeout"])
    rows = [("id", record.id), ("gRPC", record.url), ("HTTP", record.http_url), ("log", record.log)]
    rows += [("serves", ", ".join(record.models)), ("server", record.kind)]
    output.emit(record, rows, brief=record.id)


def _serve(repository: Path, options: dict[str, Any], output: Output) -> None:
    from ...serving.repository import validation
    from ...serving.server import server
    from ...serving.service import foreground
    from ...serving.service.choice import choose_server

    dry_run, models, config_name = options["dry_run"], options["models"], options["config_name"]
    choice = choose_server("container" if options["container"] else options["runtime"], fetch=not dry_run, dry=dry_run)
    click.echo(f"server: {choice.why}", err=True)
    contained = choice.kind == "container"
    control: Control = options["control"] or ("none" if contained else "explicit")
    if not models and (control == "explicit" or contained):
        validation.servable_models(repository)
        for problem in validation.placeholders(repository):
            click.echo(f"not served: {problem}", err=True)
    ports = {name: options[name] for name in ("http_port", "grpc_port", "metrics_port")}
    if contained:
        _serve_in_container(repository, control, tuple(ports.values()), options, output)
        return
    if dry_run:
        planned = server.TritonServer(
            repository, models=models or None, control=control, config_name=config_name, triton=choice.triton, **ports
        )
        _print_command(server.dry_run(planned), output)
        return
    result = foreground.serve(
        repository,
        models=models or None,
        control=control,
        config_name=config_name,
        timeout=options["timeout"],
        log=options["log"],
        on_ready=_announce_json if output.as_json else _announce_url if output.quiet else _announce,
        on_event=_say,
        triton=choice.triton,
        **ports,
    )
    if not output.as_json:
        output.emit(result)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _serve_in_container(
    repository: Path, control: str, ports: tuple[int, int, int], options: dict[str, Any], output: Output
) -> None:
    from ...serving.repository.devices import gpu_present
    from ...serving.repository.validation import servable_models
    from ...serving.server.container import container_command
    from ...serving.service.contained import serve_in_container

    config_name = options["config_name"]
    gpu = config_name in ("gpu", "trt") or (config_name is None and gpu_present())
    models = options["models"] or servable_models(repository)
    if options["dry_run"]:
        command = container_command(
            repository, models=models, control=control, config_name=config_name, ports=ports, gpu=gpu
        )
        _print_command(shlex.join(command), output)
        return

    def announce(record: ServiceRecord) -> None:
        output.emit(record, [("id", record.id), ("gRPC", record.url), ("HTTP", record.http_url)], brief=record.url)

    result = serve_in_container(
        repository,
        models=models,
        control=control,
        config_name=config_name,
        ports=ports,
        gpu=gpu,
        timeout=options["timeout"],
        log=options["log"],
        on_ready=announce,
        on_event=_say,
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


def report_check(
    repository: Path, models: Sequence[str] | None, config_name: str | None, target: str, output: Output
) -> None:
    """Print what `serving.check` finds.

    Raises:
        GateError: there are problems.
    """
    from ...serving.publishing.checking import check

    report = check(repository, models, target=target, config_name=config_name)
    rows = [("problems", len(report.problems)), ("target", str(report.target))]
    output.emit(report, [*rows, *(("embedded", str(fit)) for fit in report.embedded)])
    if report.problems:
        raise GateError("\n".join(report.problems))
