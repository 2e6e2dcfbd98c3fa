"""What is deployed: the result of a publish or rollback, the served version, and the configurations of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from .model_config import read_config, served_versions
from .repository import CONFIG_FILE, ModelFolder
from .serving_settings import Device

__all__ = ["DeployResult", "newest_served", "remembered_configs"]


@dataclass(frozen=True)
class DeployResult:
    """What is served now: `path` is the version folder, `served` the versions that the configuration lists."""

    path: Path
    name: str
    version: int
    config: Path
    served: tuple[int, ...]
    previous: int | None
    """The version served before, None for a new model."""
    batch: int | None
    """The fixed batch of the graph; None when its batch is dynamic, and for a packer."""
    device: Device
    sha256: str
    notes: tuple[str, ...] = ()
    preprocessing: str = ""
    """How images are prepared and where that comes from, or why it is not known; "" for a packer and a rollback."""
    server: Any = None
    """The server at `url` (`publishing.met_server.MetServer`), with the advisories of its release; None without one."""


def newest_served(folder: ModelFolder) -> int | None:
    """The highest version that is served and has weights; None for a new model or a placeholder.

    Raises:
        ConfigError: the model's configuration does not parse.
    """
    if not folder.config_path.is_file():
        return None
    named = served_versions(read_config(folder.config_path)) or folder.versions()
    present = [version for version in named if folder.has_model(version)]
    return max(present, default=None)


def remembered_configs(folder: ModelFolder, version: int) -> dict[str, str]:
    """The configurations that served `version`: path below the model folder -> text.

    Raises:
        InputError: its weights or its configurations no longer exist.
    """
    history = folder.history_path(version)
    texts = {str(path.relative_to(history)): path.read_text() for path in sorted(history.rglob("*.pbtxt"))}
    if CONFIG_FILE not in texts or not folder.has_model(version):
        found = ", ".join(str(v) for v in folder.versions() if (folder.history_path(v) / CONFIG_FILE).is_file())
        raise InputError(
            f"{folder.path}: cannot roll back to version {version}, its weights or its configuration no longer exist; "
            f"possible: {found or 'none'}"
        )
    return texts
