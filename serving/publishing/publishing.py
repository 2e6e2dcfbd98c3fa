"""Publish a model into a Triton repository; after every step the repository can be loaded.

`publication.py` has the file operations and their order. Publishers of one repository take turns; a model that cannot
be served is refused before anything is written. With a running server, the version is tried there under another name
first (`candidate.py`); the one that is served answers until the new one has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from ...converters.files.array_files import read_arrays
from ...converters.preprocessing.decision import PreprocessingDecision
from ...converters.records.preprocessing import Preprocessing
from ...errors import ConfigError, InputError
from ..repository.config_plan import ConfigPlan, plan_configs
from ..repository.config_rules import check_against_graph, check_settings
from ..repository.deployed import DeployResult, newest_served
from ..repository.fronts import front_changes
from ..repository.graph_signature import GraphSignature
from ..repository.integrity import changed_files
from ..repository.manifest import make_manifest
from ..repository.model_config import read_config
from ..repository.repository import CONFIG_FILE, ModelFolder, check_model_name
from ..repository.served_preprocessing import served_preprocessing
from ..repository.serving_settings import Device, ServingSettings
from ..repository.signatures.reading import find_served_batch, read_signature
from ..repository.variants.following import CONFIG_KEY
from ..repository.warmup import WarmupFile, read_examples, warmup_files
from .contract import check_contract, contract_of, describe_changes
from .exported_first import REPOSITORY, exported_first
from .on_server.met_server import meet_server
from .proof import check_proof, export_command
from .publication import Publication, prune, publish, publishing, remember_configs
from .published_form import file_name, form_note, published_form
from .served_digests import state_digests
from .snapshot import undone_on_error
from .trial_run import try_out
from .warmup_images import image_examples

__all__ = ["deploy"]


@exported_first
def deploy(
    model: str | Path,
    *,
    name: str,
    repository: str | Path = REPOSITORY,
    batch: int | Literal["dynamic"] | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    settings: ServingSettings | None = None,
    also_serve: Sequence[int] = (),
    warmup: Mapping[str, NDArray[Any]] | str | Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    url: str | None = None,
    keep: int | None = None,
    keep_metadata: bool = False,
    preprocessing: str | Preprocessing | None = None,
    force: bool = False,
    new_contract: bool = False,
) -> DeployResult:
    """Publish an ONNX or torch file, or the export of a bundle or run folder, as the next version, and serve it.

    `batch` is what the graph must have: a fixed number of rows, or "dynamic"; None accepts either. What `settings`
    does not give stays as it is served, hand edits included. `also_serve` lists older versions to serve beside the
    new one. `warmup` maps input names to arrays [N, ...] of the inputs' dtypes, or is a .npy or .npz file, or a
    folder of images. `provenance` goes into the manifest. `url` (host:port of gRPC) tries the version on a running
    server under another name, compares its outputs with ONNX Runtime's, and only then serves it. `keep` removes
    unserved versions beyond the newest `keep` (at least 2); None removes none. `keep_metadata` also publishes
    exporters' stack traces and file paths. `force` publishes a file without the manifest of an export that passed
    its gates, and the version's manifest says so. `new_contract` allows another contract (`contract.py`) than the
    one that is served, or that a model in front of it relies on. `preprocessing` is stated in the configuration,
    for files that do not state it: a preprocessing, or what `--preprocessing` takes.

    Raises:
        InputError, ConfigError: the file or the combination of arguments cannot be served; nothing was changed.
        GateError: the outputs are of no use, or the running server does not give them; what was served still is.
        PlatformError: another publisher held the repository for 300 s, or the server does not answer.

    Examples:
        >>> exported = rtool.export("model.onnx", "measured.onnx")
        >>> result = rtool.deploy(exported.path, name="network", batch="dynamic")
        >>> str(result.path), result.served
        ('model_repository/network/1', (1,))
    """
    check_model_name(name)
    _check_keep(keep)
    signature, files, unproved, found, examples = _read_servable(model, batch, warmup, preprocessing)
    folder = ModelFolder(Path(repository) / name)
    check_proof(signature, folder.manifest(_next_versions(folder, ()).new), force=force)  # before a folder is made
    with publishing(folder.path.parent) as staging:
        versions = _next_versions(folder, also_serve)
        plan = plan_configs(folder, signature, versions.served, device, settings, files, found)
        _check_plan(plan, folder, signature, also_serve)
        consent = _consented(folder, versions, signature, plan, force=force, new_contract=new_contract)
        as_given = keep_metadata or _is_placeholders(folder, versions.new, signature)
        published = published_form(signature, staging, as_given=as_given, examples=examples)
        manifest = _manifest(folder, versions, signature, published, provenance, consent, found, plan)
        notes = (*consent.notes(), *_notes(files, plan, form_note(signature, published)), *unproved)
        _write_version(_publication(folder, versions, published, plan, files, manifest), versions, staging, url)
        notes += _pruned(folder, versions, keep, staging)
    return _result(folder, versions, published, plan.device, notes, str(found), url)


def _pruned(folder: ModelFolder, versions: _Versions, keep: int | None, staging: Path) -> tuple[str, ...]:
    removed = prune(folder, {*versions.served, versions.previous}, keep, staging) if keep is not None else ()
    return (f"removed version {', '.join(map(str, removed))}",) if removed else ()


@dataclass(frozen=True)
class _Consent:
    """What is published on request only: without a proof, and with another contract."""

    lacking: tuple[str, ...]
    changes: tuple[str, ...]

    def notes(self) -> tuple[str, ...]:
        return (*(f"forced: {said}" for said in self.lacking), *(f"new contract: {said}" for said in self.changes))


def _consented(
    folder: ModelFolder,
    versions: _Versions,
    signature: GraphSignature,
    plan: ConfigPlan,
    *,
    force: bool,
    new_contract: bool,
) -> _Consent:
    lacking = check_proof(signature, folder.manifest(versions.new), force=force)
    changes = _contract_changes(folder, versions, plan)
    check_contract(folder.name, changes, new_contract=new_contract)
    return _Consent(lacking, tuple(changes))


@dataclass(frozen=True)
class _Versions:
    """The version that is published, the one served before it, and those served afterwards."""

    new: int
    previous: int | None
    served: tuple[int, ...]


def _next_versions(folder: ModelFolder, also_serve: Sequence[int]) -> _Versions:
    """The next free number, or that of a placeholder whose weights are missing."""
    present = folder.versions()
    placeholder = bool(present) and not any(folder.has_model(version) for version in present)
    new = present[-1] if placeholder else max(present, default=0) + 1
    return _Versions(new, newest_served(folder), tuple(sorted({*also_serve, new})))


def _read_servable(
    model: str | Path,
    batch: int | Literal["dynamic"] | None,
    warmup: Mapping[str, NDArray[Any]] | str | Path | None,
    preprocessing: str | Preprocessing | None,
) -> tuple[
    GraphSignature,
    list[WarmupFile],
    tuple[str, ...],
    PreprocessingDecision | str,
    Mapping[str, NDArray[Any]] | None,
]:
    """The file's signature, its warm-up files, why an open batch is not verified, its preprocessing, and examples.

    The model was run.

    Raises:
        InputError: it cannot be run, or declares an open batch and mixes the images of a batch.
    """
    signature = read_signature(model, lambda: _arrays(warmup))
    _check_batch(signature, batch)
    found = served_preprocessing(signature, preprocessing)
    examples = warmup if not isinstance(warmup, str | Path) else _examples(Path(warmup), signature, found)
    files = warmup_files(signature, examples)
    try_out(signature, examples)
    unproved = _check_open_batch(signature, examples)
    return signature, files, (unproved,) if unproved else (), found, examples


def _arrays(
    warmup: Mapping[str, NDArray[Any]] | str | Path | None,
) -> Mapping[str, NDArray[Any]] | NDArray[Any] | None:
    """Arrays that show the shapes of a torch file; images do not."""
    if isinstance(warmup, str | Path):
        return None if Path(warmup).is_dir() else read_arrays(Path(warmup))
    return warmup


def _examples(path: Path, signature: GraphSignature, found: PreprocessingDecision | str) -> Mapping[str, NDArray[Any]]:
    """Arrays of a file, or the images of a folder."""
    return image_examples(path, signature, found) if path.is_dir() else read_examples(path, signature)


def _publication(
    folder: ModelFolder,
    versions: _Versions,
    published: GraphSignature,
    plan: ConfigPlan,
    files: Sequence[WarmupFile],
    manifest: Mapping[str, Any],
) -> Publication:
    state_digests(plan.configs.values(), folder, versions.new, published.sha256)
    name = file_name(published)
    model_file, digest = {name: published.path}, {name: published.sha256}
    return Publication(folder, versions.new, model_file, digest, plan.texts(), files, manifest)


def _write_version(publication: Publication, versions: _Versions, staging: Path, url: str | None) -> None:
    """Try the version on a running server, keep the configurations that serve now, publish it, and serve it there."""
    if url is not None:
        from .on_server import candidate

        candidate.try_on_server(url, publication, staging, served=versions.previous)
    with undone_on_error(publication.folder, staging) as before:
        if versions.previous is not None:
            remember_configs(publication.folder, versions.previous, staging)
        publish(publication, staging)
    if url is not None:
        candidate.switch(url, publication.folder, publication.version, before, staging)


def _contract_changes(folder: ModelFolder, versions: _Versions, plan: ConfigPlan) -> list[str]:
    """What the clients of the version that is served, and the models in front of it, would not get any more."""
    config = plan.configs[CONFIG_FILE]
    if versions.previous is None:
        return front_changes(folder, None, config)
    served = read_config(folder.config_path)
    before = contract_of(served, manifest=folder.manifest(versions.previous))
    changes = describe_changes(before, contract_of(config))
    return [*changes, *front_changes(folder, served, config)]


def _result(
    folder: ModelFolder,
    versions: _Versions,
    published: GraphSignature,
    device: Device,
    notes: tuple[str, ...],
    preprocessing: str,
    url: str | None,
) -> DeployResult:
    return DeployResult(
        path=folder.version_path(versions.new),
        name=folder.name,
        version=versions.new,
        config=folder.config_path,
        served=versions.served,
        previous=versions.previous,
        batch=published.batch,
        device=device,
        sha256=published.sha256,
        notes=notes,
        preprocessing=preprocessing,
        server=meet_server(url) if url is not None else None,
    )


def _notes(files: Sequence[WarmupFile], plan: ConfigPlan, form: str) -> tuple[str, ...]:
    notes = [f"comments and order of {path} could not be kept" for path in plan.rewritten()]
    notes += [f"a comment is lost, because its field was rewritten: {comment}" for comment in plan.lost()]
    if form:
        notes.append(form)
    if not files:
        notes.append("no warm-up: inputs have dynamic axes beside the batch; give arrays with --warmup")
    return tuple(notes)


def _check_batch(signature: GraphSignature, wanted: int | Literal["dynamic"] | None) -> None:
    found = signature.batch
    if wanted is None or wanted == (found if found is not None else "dynamic"):
        return
    has = f"a fixed batch of {found}" if found is not None else "a dynamic batch"
    raise InputError(
        f"{signature.path}: --batch {wanted} was requested, but the graph has {has}; "
        f"run `{export_command(signature, wanted)}` and deploy that"
    )


def _check_keep(keep: int | None) -> None:
    if keep is not None and keep < 2:
        raise InputError(f"deploy: keep must be at least 2, so that a version to roll back to remains; got {keep}")


def _check_open_batch(signature: GraphSignature, examples: Mapping[str, NDArray[Any]] | None) -> str:
    """Prove that an open batch is its images one by one, so that no server joins requests that change each other.

    Returns:
        Why it cannot be verified; "" where it is, or the batch is fixed.

    Raises:
        InputError: a batch is not its images one by one.
    """
    if signature.batch is not None:
        return ""
    given = None if examples is None else [examples[tensor.name] for tensor in signature.inputs]
    finding = find_served_batch(signature, given)
    if not finding.is_wrong:
        return finding.describe()
    if finding.right_at is None:
        raise InputError(f"{signature.path}: {finding.describe()}; export the network again, with a fixed batch")
    command = export_command(signature, finding.right_at)
    raise InputError(f"{signature.path}: {finding.describe()}; fix it with `{command}` and deploy that")


def _check_plan(plan: ConfigPlan, folder: ModelFolder, signature: GraphSignature, also_serve: Sequence[int]) -> None:
    problems = []
    for path, config in plan.configs.items():
        problems += [f"{path}: {message}" for message in check_settings(config, folder.name)]
        problems += [f"{path}: {message}" for message in check_against_graph(config, signature)]
    for version in also_serve:
        if version not in folder.versions() or not folder.has_model(version):
            problems.append(f"version {version} cannot be served too: it is not in {folder.path}")
            continue
        if changed := [f"{path.name} {reason}" for path, reason in changed_files(folder, version)]:
            problems.append(f"version {version} cannot be served too: {changed[0]}")
            continue
        older = read_signature(folder.model_path(version))
        messages = check_against_graph(plan.configs[CONFIG_FILE], older)
        problems += [f"version {version} cannot be served too: {message}" for message in messages]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{signature.path}: cannot be served as {folder.name!r}:\n{lines}")


def _manifest(
    folder: ModelFolder,
    versions: _Versions,
    signature: GraphSignature,
    published: GraphSignature,
    provenance: Mapping[str, Any] | None,
    consent: _Consent,
    preprocessing: PreprocessingDecision | str,
    plan: ConfigPlan,
) -> Mapping[str, Any]:
    placeholder = folder.manifest(versions.new)
    if placeholder is not None and _is_placeholders(folder, versions.new, signature):
        return placeholder
    made = make_manifest(
        folder.name,
        versions.new,
        signature,
        published=published,
        repository=folder.path.parent,
        previous=versions.previous,
        provenance=provenance,
        forced=consent.lacking,
        changes=consent.changes,
        preprocessing=preprocessing,
    )
    return {**made, CONFIG_KEY: plan.texts()[CONFIG_FILE]}


def _is_placeholders(folder: ModelFolder, version: int, signature: GraphSignature) -> bool:
    """Whether the file is the one that a committed manifest describes."""
    placeholder = folder.manifest(version)
    return placeholder is not None and placeholder.get("sha256") == signature.sha256
