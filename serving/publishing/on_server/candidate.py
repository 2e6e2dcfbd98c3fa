"""Try a version on a running server before any client can reach it: verify, then switch.

Triton answers requests without a version with the highest that is ready, so a version must not become ready under the
model's name before it was checked. It is loaded under a hidden name, a *candidate*, with the same file, configuration
and warm-up, held to the outputs of its file, and unloaded again. Only explicit model control is needed, which every
release of Triton has. Meanwhile the server holds both versions in memory, as it does during the switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ....errors import GateError, InputError, PlatformError, RtoolError
from ...repository.model_config import parse_config, set_versions, write_config
from ...repository.repository import CANDIDATE_PREFIX, CONFIG_FILE, MODEL_FILE, ModelFolder
from ..publication import Publication, publish, remove_whole
from ..snapshot import Snapshot
from .clearing import clear_refusal, clear_refused_update
from .met_server import why_it_may_refuse
from .rollout import load_on_server, refused_on_server, serve_version, unload_from_server

__all__ = ["switch", "try_on_server"]

_UNLOAD_SECONDS = 30.0
"""Triton waits for the back end to end; meanwhile three versions would be in memory, and the server is not ready."""


def try_on_server(url: str, publication: Publication, staging: Path, *, served: int | None) -> None:
    """Load what `publication` would publish under another name, and hold it to its outputs; nothing of it remains.

    Raises:
        GateError: the server does not reproduce the file, or its outputs are of no use.
        InputError: the server refuses to load it.
        PlatformError: no server answers, or not in time.
    """
    folder = publication.folder
    candidate = ModelFolder(folder.path.with_name(f"{CANDIDATE_PREFIX}{folder.name}"))
    unload_from_server(url, candidate.name)  # of a publisher that crashed
    tried = replace(publication, folder=candidate, configs=_renamed(publication, candidate))
    try:
        publish(tried, staging)
        serve_version(url, candidate, publication.version)
    except RtoolError as error:
        kind = type(error) if isinstance(error, InputError | PlatformError) else GateError
        state = f"version {served} is still served" if served is not None else "nothing is served under this name"
        weights = publication.files.get(MODEL_FILE)
        hint = why_it_may_refuse(url, weights) if weights is not None else ""
        raise kind(
            f"{folder.path}: version {publication.version} was refused before it answered anybody, {state}: "
            f"{error}{hint}"
        ) from error
    finally:
        unload_from_server(url, candidate.name, timeout=_UNLOAD_SECONDS)
        if refused_on_server(url, candidate.name, publication.version):
            clear_refusal(url, candidate, publication.version, staging)
        if candidate.path.exists():
            remove_whole(candidate.path, staging)


def switch(url: str, folder: ModelFolder, version: int, before: Snapshot, staging: Path) -> None:
    """Serve `version`, which lies in the repository; on any error put disk and server back as `before`.

    Raises:
        GateError: the server does not reproduce the file after all.
        InputError: the server refuses to load it.
        PlatformError: the server does not answer, or not in time.
    """
    try:
        serve_version(url, folder, version)
    except BaseException as error:
        refused = refused_on_server(url, folder.name, version)
        before.restore(staging)
        if before.texts is None:
            unload_from_server(url, folder.name)
            if refused:
                clear_refusal(url, folder, version, staging)
        else:
            with suppress(RtoolError):  # a server that stopped reads the restored configuration when it starts
                load_on_server(url, folder.name)
            if refused:
                clear_refused_update(url, before, version, staging)
        if not isinstance(error, RtoolError):
            raise
        kind = type(error) if isinstance(error, InputError | PlatformError) else GateError
        state = "the repository is as it was" if before.texts is not None else "the model was removed again"
        raise kind(f"{folder.path}: version {version} failed on {url}, {state}: {error}") from error


def _renamed(publication: Publication, candidate: ModelFolder) -> Mapping[str, str]:
    config = parse_config(publication.configs[CONFIG_FILE], publication.folder.config_path)
    config.name = candidate.name
    set_versions(config, (publication.version,))
    if not publication.warmup:
        config.ClearField("model_warmup")  # its data lie in the folder of the model
    return {CONFIG_FILE: write_config(config)}
