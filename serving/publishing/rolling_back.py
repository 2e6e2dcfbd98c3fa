"""Serve an earlier version of a published model again, under the configuration it was served with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ..repository.config_plan import device_of
from ..repository.deployed import DeployResult, newest_served, remembered_configs
from ..repository.fronts import front_changes
from ..repository.integrity import check_unchanged
from ..repository.model_config import ModelConfig, parse_config, read_config, served_versions
from ..repository.repository import CONFIG_FILE, MANIFEST_FILE, ModelFolder, check_model_name
from ..repository.signatures.reading import read_signature
from .contract import check_contract, contract_of, describe_changes
from .on_server.fitting_server import require_fitting_server
from .on_server.met_server import meet_server
from .publication import Publication, publishing, remember_configs, replace_configs
from .snapshot import undone_on_error

__all__ = ["rollback"]


def rollback(
    name: str,
    *,
    repository: str | Path = "model_repository",
    to: int | None = None,
    url: str | None = None,
    new_contract: bool = False,
) -> DeployResult:
    """Serve an earlier version again, under the configuration it was served with.

    `to` None selects the version that was served before the present one. The present version stays in its folder, but
    is no longer served. `url` (host:port of gRPC) tries it on a running server under another name, compares its
    outputs, and only then serves it. The version that was served before is what clients had, so it may have another
    contract than the present one, which the notes say; any other needs `new_contract`. On an error, disk and server are
    as they were.

    Raises:
        InputError: there is no such model, no earlier version to roll back to, its file was changed, or `to` has
            another contract.
        ConfigError: the earlier configuration does not parse.
        GateError: the running server does not reproduce the earlier version.
        PlatformError: another publisher held the repository for 300 s, or the server does not answer.
    """
    check_model_name(name)
    root = Path(repository)
    folder = ModelFolder(root / name)
    if not folder.config_path.is_file():
        raise InputError(f"{folder.path}: no published model to roll back")
    if url is not None:
        require_fitting_server(url, root)
    with publishing(root) as staging:
        present = newest_served(folder)
        target = to if to is not None else _predecessor(folder, present)
        texts = remembered_configs(folder, target)
        config = parse_config(texts[CONFIG_FILE], folder.history_path(target) / CONFIG_FILE)
        check_unchanged(folder, target)
        changes = _contract_changes(folder, present, target, config)
        notes = check_contract(name, changes, new_contract=new_contract or to is None)
        _serve_again(folder, present, target, texts, url, staging)
    weights = folder.model_path(target)
    signature = read_signature(weights) if weights.is_file() else None  # a packer has none
    return DeployResult(
        path=folder.version_path(target),
        name=name,
        version=target,
        config=folder.config_path,
        served=served_versions(config),
        previous=present,
        batch=signature.batch if signature is not None else None,
        device=device_of(config),
        sha256=signature.sha256 if signature is not None else "",
        notes=notes,
        server=meet_server(url) if url is not None else None,
    )


def _contract_changes(folder: ModelFolder, present: int | None, target: int, config: ModelConfig) -> list[str]:
    """What the clients of the present version, and the models in front of it, would not get any more."""
    served = read_config(folder.config_path)
    before = contract_of(served, manifest=folder.manifest(present) if present is not None else None)
    changes = describe_changes(before, contract_of(config, manifest=folder.manifest(target)))
    return [*changes, *front_changes(folder, served, config)]


def _serve_again(
    folder: ModelFolder, present: int | None, target: int, texts: Mapping[str, str], url: str | None, staging: Path
) -> None:
    """Try the version on a running server, then put its configurations back and serve it there."""
    if url is not None:
        from .on_server import candidate

        candidate.try_on_server(url, _as_candidate(folder, target, texts), staging, served=present)
    with undone_on_error(folder, staging) as before:
        if present is not None:
            remember_configs(folder, present, staging)
        replace_configs(folder, texts, staging)
    if url is not None:
        candidate.switch(url, folder, target, before, staging)


def _as_candidate(folder: ModelFolder, version: int, texts: Mapping[str, str]) -> Publication:
    files = {
        path.name: path
        for path in folder.version_path(version).iterdir()
        if path.is_file() and path.name != MANIFEST_FILE
    }
    return Publication(folder, version, files, {}, texts, (), folder.manifest(version) or {})


def _predecessor(folder: ModelFolder, present: int | None) -> int:
    manifest = folder.manifest(present) if present is not None else None
    previous = (manifest or {}).get("previous_version")
    if not isinstance(previous, int):
        earlier = sorted(int(path.name) for path in (folder.path / "history").glob("*") if path.name.isdigit())
        listed = ", ".join(map(str, earlier))
        hint = f"served earlier: {listed}; choose one with --to" if earlier else "it is the first one"
        raise InputError(f"{folder.path}: version {present} has no predecessor to roll back to; {hint}")
    return previous
