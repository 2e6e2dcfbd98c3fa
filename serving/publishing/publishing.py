"""Publish a model into a Triton repository: every step leaves a repository that loads.

`publication.py` has the file operations and their order. Publishers of one repository take turns; what cannot be
served is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from ...errors import ConfigError, GateError, InputError, RtoolError
from ..repository.config_plan import ConfigPlan, plan_configs
from ..repository.config_rules import check_against_graph, check_settings
from ..repository.deployed import DeployResult, newest_served, remembered_configs
from ..repository.golden import golden_outputs
from ..repository.graph_signature import GraphSignature, read_signature
from ..repository.manifest import make_manifest
from ..repository.model_config import ServingSettings
from ..repository.repository import CONFIG_FILE, MODEL_FILE, ModelFolder, check_model_name
from ..repository.warmup import WarmupFile, example_array, read_examples, warmup_files
from .publication import Publication, prune, publish, publishing, remember_configs, withdraw
from .trace_stripping import without_traces

__all__ = ["deploy"]


def deploy(
    model: str | Path,
    *,
    name: str,
    repository: str | Path = "model_repository",
    batch: int | Literal["dynamic"] | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    settings: ServingSettings | None = None,
    also_serve: Sequence[int] = (),
    warmup: Mapping[str, NDArray[Any]] | str | Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    url: str | None = None,
    keep: int | None = None,
    keep_metadata: bool = False,
) -> DeployResult:
    """Publish an ONNX file as the next version of `name`, and serve it.

    `batch` states what the graph must have (a number baked in, or "dynamic"); None takes what it has. `settings` None
    keeps the settings of the version served so far when the graphs agree, hand edits included. `also_serve` names
    older versions to keep serving beside the new one. `warmup` maps input names to real arrays, or is a .npy or .npz
    file. `provenance` goes into the manifest. `url` (host:port of gRPC) loads the version on a running server and
    compares it with in-process ONNX Runtime; when that fails, the previous version is served again. `keep` removes
    unserved versions beyond the newest `keep` (2 at least); None removes nothing. What exporters left in the nodes,
    stack traces with file paths, is not published unless `keep_metadata`; the model's own metadata always is.

    Raises:
        InputError: the file, the name or the combination cannot be served; nothing was changed.
        GateError: the running server does not reproduce the model; the previous version is served again.
        PlatformError: another publisher held the repository too long, or the server does not answer.

    Examples:
        >>> result = rtool.deploy("model.onnx", name="network", batch="dynamic")
        >>> str(result.path), result.served
        ('model_repository/network/1', (1,))
    """
    check_model_name(name)
    signature = read_signature(model)
    _check_batch(signature, batch)
    _check_keep(keep)
    examples = read_examples(Path(warmup), signature) if isinstance(warmup, str | Path) else warmup
    files = warmup_files(signature, examples)
    _check_runs(signature, examples)
    root = Path(repository)
    folder = ModelFolder(root / name)
    with publishing(root) as staging:
        previous = newest_served(folder)
        version = _next_version(folder)
        served = tuple(sorted({*also_serve, version}))
        plan = plan_configs(folder, signature, served, device=device, settings=settings, warmup=files)
        _check_plan(plan, folder, signature, also_serve)
        published = signature
        if not keep_metadata and not _is_placeholders(folder, version, signature):
            published = without_traces(signature, staging)
        manifest = _manifest(folder, version, signature, published, previous, provenance)
        if previous is not None:
            remember_configs(folder, previous, staging)
        model_file, digest = {MODEL_FILE: published.path}, {MODEL_FILE: published.sha256}
        publish(Publication(folder, version, model_file, digest, plan.texts(), files, manifest), staging)
        if url is not None:
            _bring_live(url, folder, version, previous, staging)
        removed = prune(folder, {*served, previous}, keep, staging) if keep is not None else ()
    return DeployResult(
        path=folder.version_path(version),
        name=name,
        version=version,
        config=folder.config_path,
        served=served,
        previous=previous,
        batch=signature.batch,
        device=plan.device,
        sha256=published.sha256,
        notes=_notes(files, removed, stripped=published is not signature),
    )


def _notes(files: Sequence[WarmupFile], removed: Sequence[int], *, stripped: bool) -> tuple[str, ...]:
    notes = []
    if stripped:
        notes.append("exporters' traces were removed from the nodes; --keep-metadata publishes the file as it is")
    if not files:
        notes.append("no warm-up: the inputs leave more than the batch open; give real arrays as warmup")
    if removed:
        notes.append(f"removed version {', '.join(map(str, removed))}")
    return tuple(notes)


def _check_batch(signature: GraphSignature, wanted: int | Literal["dynamic"] | None) -> None:
    found = signature.batch
    if wanted is None or wanted == (found if found is not None else "dynamic"):
        return
    has = f"batch {found} baked in" if found is not None else "an open batch"
    raise InputError(
        f"{signature.path}: --batch {wanted} was asked for, but the graph has {has}; "
        f"run `{_export_again(signature)} --batch {wanted} -o OUT.onnx` and deploy that"
    )


def _export_again(signature: GraphSignature) -> str:
    """The command that makes such a file; narrow ones are made from their source, as only that can be exported."""
    steps = signature.metadata.get("rtool.steps", "")
    precision = next((name for name in ("fp16", "bf16", "int8") if f'"name": "{name}"' in steps), None)
    if precision is None:
        return f"rtool export {signature.path}"
    source = signature.metadata.get("rtool.model", "SOURCE")
    return f"rtool export {source} --{precision}{' --calibrate IMAGES' if precision == 'int8' else ''}"


def _check_keep(keep: int | None) -> None:
    if keep is not None and keep < 2:
        raise InputError(f"deploy: keep must be at least 2, so that there is a version to roll back to; got {keep}")


def _check_runs(signature: GraphSignature, examples: Mapping[str, NDArray[Any]] | None) -> None:
    """Run the model once on the rows it is warmed up with, so that a file no server can run is never published."""
    rows = signature.batch or 1
    if examples is None and any(-1 in tensor.dims[1:] for tensor in signature.inputs):
        return
    inputs = {
        tensor.name: examples[tensor.name][:rows] if examples is not None else example_array(tensor, rows)
        for tensor in signature.inputs
    }
    golden_outputs(signature.path, inputs)


def _next_version(folder: ModelFolder) -> int:
    versions = folder.versions()
    if versions and not any(folder.has_model(version) for version in versions):
        return versions[-1]  # fill the placeholder
    return max(versions, default=0) + 1


def _check_plan(plan: ConfigPlan, folder: ModelFolder, signature: GraphSignature, also_serve: Sequence[int]) -> None:
    problems = []
    for path, config in plan.configs.items():
        problems += [f"{path}: {message}" for message in check_settings(config, folder.name)]
        problems += [f"{path}: {message}" for message in check_against_graph(config, signature)]
    for version in also_serve:
        if version not in folder.versions() or not folder.has_model(version):
            problems.append(f"version {version} cannot be served too: it is not in {folder.path}")
            continue
        older = read_signature(folder.model_path(version))
        messages = check_against_graph(plan.configs[CONFIG_FILE], older)
        problems += [f"version {version} cannot be served too: {message}" for message in messages]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{signature.path}: cannot be served as {folder.name!r}:\n{lines}")


def _manifest(
    folder: ModelFolder,
    version: int,
    signature: GraphSignature,
    published: GraphSignature,
    previous: int | None,
    provenance: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    placeholder = folder.manifest(version)
    if placeholder is not None and _is_placeholders(folder, version, signature):
        return placeholder
    return make_manifest(
        folder.name,
        version,
        signature,
        published=published,
        repository=folder.path.parent,
        previous=previous,
        provenance=provenance,
    )


def _is_placeholders(folder: ModelFolder, version: int, signature: GraphSignature) -> bool:
    """Whether these are the very weights that a committed manifest describes."""
    placeholder = folder.manifest(version)
    return placeholder is not None and placeholder.get("sha256") == signature.sha256


def _bring_live(url: str, folder: ModelFolder, version: int, previous: int | None, staging: Path) -> None:
    """Load the new version on a running server and compare it; take it back when that fails."""
    from .rollout import load_on_server, serve_version, unload_from_server

    try:
        serve_version(url, folder, version)
    except RtoolError as error:
        texts = remembered_configs(folder, previous) if previous is not None else None
        withdraw(folder, version, texts, staging)
        if previous is None:
            unload_from_server(url, folder.name)
        else:
            with suppress(RtoolError):  # a server that is gone reads the restored configuration when it starts
                load_on_server(url, folder.name)
        state = f"version {previous} is served again" if previous is not None else "it was taken out again"
        raise GateError(f"{folder.path}: version {version} failed on {url}, {state}: {error}") from error
