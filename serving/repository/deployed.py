"""What is deployed: the result of a publish or rollback, the version that serves, the configurations it served with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .model_config import Device, read_config, served_versions
from .repository import CONFIG_FILE, ModelFolder

__all__ = ["DeployResult", "newest_served", "remembered_configs"]


@dataclass(frozen=True)
class DeployResult:
    """What is served now: `path` is the version folder, `served` the versions the configuration names."""

    path: Path
    name: str
    version: int
    config: Path
    served: tuple[int, ...]
    previous: int | None
    """The version served before, None for a new model."""
    batch: int | None
    """The baked batch; None when the batch is open."""
    device: Device
    sha256: str
    notes: tuple[str, ...] = ()


def newest_served(folder: ModelFolder) -> int | None:
    """The highest version that is served and has weights; None for a new model or a placeholder."""
    if not folder.config_path.is_file():
        return None
    named = served_versions(read_config(folder.config_path)) or folder.versions()
    present = [version for version in named if folder.has_model(version)]
    return max(present, default=None)


def remembered_configs(folder: ModelFolder, version: int) -> dict[str, str]:
    """The configurations that served `version`: path below the model folder -> text.

    Raises:
        InputError: its weights or its configurations are gone.
    """
    kept = folder.history_path(version)
    texts = {str(path.relative_to(kept)): path.read_text() for path in sorted(kept.rglob("*.pbtxt"))}
    if CONFIG_FILE not in texts or not folder.has_model(version):
        found = ", ".join(str(v) for v in folder.versions() if (folder.history_path(v) / CONFIG_FILE).is_file())
        raise InputError(
            f"{folder.path}: version {version} cannot be rolled back to, its weights or its configuration are gone; "
            f"possible: {found or 'none'}"
        )
    return texts
