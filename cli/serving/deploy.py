"""`rtool deploy`: publish a model in a Triton repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import InputError
from ..output import Output, examples, output_options
from ..preprocessing import preprocessing_option
from .serve import report_check

if TYPE_CHECKING:
    from ...serving.repository.deployed import DeployResult

__all__ = ["deploy_command"]


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
        "rtool deploy osnet.pt --name osnet_torch",
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
@click.option(
    "--max-batch", type=int, help="Largest batch that the server forms.  [default: as served; 16 on a CPU, 64 on a GPU]"
)
@click.option(
    "--max-delay",
    type=float,
    help="Milliseconds for which a batch waits to fill.  [default: as served; 0 on a CPU, 2 on a GPU; of a packer, 15 "
    "and 3]",
)
@click.option(
    "--instances", type=int, help="Sessions in parallel; each computes on --threads cores.  [default: as served, 1]"
)
@click.option("--threads", type=int, help="CPU threads per session.  [default: as served, 1]")
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
    help="Inputs to warm up with: a folder of images, .npy, or .npz with one array per input.",
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
@click.option("--target", default="26.07", show_default=True, help="With --check: the Triton release to serve it.")
@click.option(
    "--kubernetes",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write manifests that serve the repository on Kubernetes, and for KServe, into the new folder DIR.",
)
@click.option("--image", help="With --kubernetes: the image, pinned by digest or release.  [default: NVIDIA's 26.07]")
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
    """Publish MODEL (.onnx, TorchScript .pt, .pt2, a bundle or a run folder) as a model's next version in a repository.

    A bundle or run folder is exported first, as `rtool export` does it; the command is printed. A .pt2 is written as
    TorchScript. A torch file that states no shapes needs arrays with --warmup.

    The file is checked and run first; then the version appears as a whole, or not at all. A setting that is given
    changes that setting alone: the others stay as they are served, hand edits included.
    """
    from ...serving.publishing.packing import deploy_packer
    from ...serving.publishing.publishing import deploy as publish
    from ...serving.publishing.rolling_back import rollback as roll_back
    from ...serving.repository.serving_settings import ServingSettings

    _refuse_alone({"target": "check", "image": "kubernetes"})
    if options["kubernetes"] is not None:
        _refuse_others("--kubernetes", {"image", "device"})
        _write_kubernetes(repository, name, options, output)
        return
    if check:
        _check_published(repository, name, options["target"], output, others=(model, rollback or None, packer_for))
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
    more: dict[str, Any] = {"also_serve": also_serve, "warmup": warmup, "url": url, "new_contract": new_contract}
    more |= {key: options[key] for key in ("batch", "device", "keep", "keep_metadata", "preprocessing", "force")}
    settings = ServingSettings(**given) if given else None
    _report(publish(model, name=name, repository=repository, settings=settings, **more), output)


def _check_published(repository: Path, name: str, target: str, output: Output, others: tuple[object, ...]) -> None:
    if any(other is not None for other in others):
        raise InputError("deploy --check: checks what is published; give it --name and --repository alone")
    report_check(repository, [name], None, target, output)


def _write_kubernetes(repository: Path, name: str, options: dict[str, Any], output: Output) -> None:
    from ...serving.cluster.pod import ClusterOptions
    from ...serving.cluster.writing import write_kubernetes
    from ...serving.repository.config_plan import device_of
    from ...serving.repository.model_config import read_config
    from ...serving.repository.repository import model_folders

    device = options["device"]
    if device == "auto":
        served = [read_config(folder.config_path) for folder in model_folders(repository)]
        device, config_name = ("gpu" if any(device_of(one) == "gpu" for one in served) else "cpu"), None
    else:
        config_name = device
    image = {"image": options["image"]} if options["image"] is not None else {}
    chosen = ClusterOptions(name=name, config_name=config_name, gpus=1 if device == "gpu" else 0, **image)
    result = write_kubernetes(options["kubernetes"], repository=repository, options=chosen)
    rows = [("image", result.image), ("files", ", ".join(result.files))]
    rows.append(("next", f"copy {', '.join(result.models)} to the volume of the claim {chosen.claim!r}"))
    rows.append(("then", f"kubectl apply -k {result.path}"))
    output.emit(result, rows, artefact=result.path)


def _refuse_alone(belongs: dict[str, str]) -> None:
    """Refuse options that were given without the one that they belong to.

    Raises:
        InputError: there are some.
    """
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    for name, other in belongs.items():
        if context.get_parameter_source(name) is given and context.get_parameter_source(other) is not given:
            raise InputError(f"deploy: --{name} would have no effect without --{other}; leave it out")


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
