"""Serve an earlier version of a published model again, under the configuration it was served with."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..repository.config_plan import device_of
from ..repository.deployed import DeployResult, newest_served, remembered_configs
from ..repository.graph_signature import read_signature
from ..repository.model_config import parse_config, served_versions
from ..repository.repository import CONFIG_FILE, ModelFolder, check_model_name
from .publication import publishing, remember_configs, replace_configs

__all__ = ["rollback"]


def rollback(
    name: str, *, repository: str | Path = "model_repository", to: int | None = None, url: str | None = None
) -> DeployResult:
    """Serve an earlier version again, under the configuration it was served with.

    `to` None selects the version that was served before the present one. The present version stays in its folder, but
    is no longer served. `url` (host:port of gRPC) reloads the model on a running server and compares its outputs.

    Raises:
        InputError: there is no such model, or no earlier version to roll back to.
        ConfigError: the earlier configuration does not parse.
        GateError: the running server does not reproduce the earlier version.
        PlatformError: another publisher held the repository for 300 s, or the server does not answer.
    """
    check_model_name(name)
    root = Path(repository)
    folder = ModelFolder(root / name)
    if not folder.config_path.is_file():
        raise InputError(f"{folder.path}: no published model to roll back")
    with publishing(root) as staging:
        present = newest_served(folder)
        target = to if to is not None else _predecessor(folder, present)
        texts = remembered_configs(folder, target)
        config = parse_config(texts[CONFIG_FILE], folder.history_path(target) / CONFIG_FILE)
        if present is not None:
            remember_configs(folder, present, staging)
        replace_configs(folder, texts, staging)
        if url is not None:
            from .rollout import serve_version

            serve_version(url, folder, target)
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
    )


def _predecessor(folder: ModelFolder, present: int | None) -> int:
    manifest = folder.manifest(present) if present is not None else None
    previous = (manifest or {}).get("previous_version")
    if not isinstance(previous, int):
        earlier = sorted(int(path.name) for path in (folder.path / "history").glob("*") if path.name.isdigit())
        listed = ", ".join(map(str, earlier))
        hint = f"served earlier: {listed}; choose one with --to" if earlier else "it is the first one"
        raise InputError(f"{folder.path}: version {present} has no predecessor to roll back to; {hint}")
    return previous
