"""The folders of a Triton model repository as rtool lays them out, and how they are read.

    REPOSITORY/
      MODEL/
        config.pbtxt            what the server loads
        configs/{cpu,gpu,trt}.pbtxt  the same model for `--config-name cpu|gpu|trt`
        warmup/                 real bytes for warm-up requests, named by content
        1/model.onnx            weights (git-ignored in this project); of TorchScript, model.pt
        1/manifest.json         sha256, origin, inputs and outputs
        history/1/*.pbtxt       the configurations that served version 1, for rollback

A version folder without its model file is a *placeholder*: its manifest states the command that makes the weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...converters.records.json_text import parse_json
from ...errors import InputError

__all__ = [
    "CANDIDATE_PREFIX",
    "CONFIG_FILE",
    "LOCK_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "TORCH_FILE",
    "VARIANTS",
    "ModelFolder",
    "check_model_name",
    "model_folders",
]

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
TORCH_FILE = "model.pt"
MANIFEST_FILE = "manifest.json"
LOCK_FILE = ".rtool.lock"
_DAMAGED = "restore it, or remove this file and publish the model again"
CANDIDATE_PREFIX = ".candidate-"
"""Of the folder in which a version is tried on a running server; hidden, so that no command takes it for a model."""
VARIANTS: tuple[Literal["cpu", "gpu", "trt"], ...] = ("cpu", "gpu", "trt")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def check_model_name(name: str) -> str:
    """Return `name` when it is valid as a folder, as a part of a URL and as the name of a Triton model.

    Raises:
        InputError: it is not.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InputError(
            f"model name {name!r}: expected a letter followed by letters, digits, '.', '_' or '-' (128 at most)"
        )
    return name


@dataclass(frozen=True)
class ModelFolder:
    """One model of a repository; the disk is read only when a method is called."""

    path: Path

    @property
    def name(self) -> str:
        """The model's name, which is that of its folder."""
        return self.path.name

    @property
    def config_path(self) -> Path:
        """The configuration that serves by default."""
        return self.path / CONFIG_FILE

    def variant_path(self, variant: str | None) -> Path:
        """The configuration that `--config-name VARIANT` selects: the default one where the variant has no file."""
        path = self.path / "configs" / f"{variant}.pbtxt"
        return path if variant is not None and path.is_file() else self.config_path

    def version_path(self, version: int) -> Path:
        """The folder of one version."""
        return self.path / str(version)

    def model_path(self, version: int) -> Path:
        """The weights of one version: TorchScript where there is such a file, else ONNX."""
        torch_file = self.version_path(version) / TORCH_FILE
        return torch_file if torch_file.is_file() else self.version_path(version) / MODEL_FILE

    def history_path(self, version: int) -> Path:
        """The folder of the configurations that served `version`."""
        return self.path / "history" / str(version)

    def versions(self) -> tuple[int, ...]:
        """Version numbers in ascending order, placeholders included."""
        if not self.path.is_dir():
            return ()
        names = (entry.name for entry in self.path.iterdir() if entry.is_dir())
        return tuple(sorted(int(name) for name in names if _VERSION.fullmatch(name)))

    def has_model(self, version: int) -> bool:
        """Whether the version has a file to serve, and not only a manifest."""
        folder = self.version_path(version)
        return folder.is_dir() and any(entry.name != MANIFEST_FILE for entry in folder.iterdir())

    def misnamed_versions(self) -> tuple[str, ...]:
        """Folders that Triton would read as a version because of their leading number, although they are none.

        It parses names with `std::stoll`: `4.tmp` counts as version 4, and leading zeros are ignored.
        """
        names = (entry.name for entry in self.path.iterdir() if entry.is_dir())
        return tuple(sorted(n for n in names if re.match(r"[ +-]*[0-9]", n) and not _VERSION.fullmatch(n)))

    def manifest(self, version: int) -> dict[str, Any] | None:
        """The manifest of one version as JSON data; None where there is none.

        Raises:
            InputError: the file is not a JSON object.
        """
        path = self.version_path(version) / MANIFEST_FILE
        if not path.is_file():
            return None
        try:
            found = parse_json(path.read_text())
        except (ValueError, OSError) as error:
            raise InputError(f"{path}: expected JSON ({error}); {_DAMAGED}") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: expected a JSON object, got {type(found).__name__}; {_DAMAGED}")
        return found


def model_folders(repository: Path) -> tuple[ModelFolder, ...]:
    """Every model folder of a repository, sorted by name; files and hidden folders are ignored.

    Raises:
        InputError: the repository is not a folder.
    """
    if not repository.is_dir():
        kind = "a file" if repository.exists() else "nothing"
        raise InputError(
            f"{repository}: expected a model repository (a folder), got {kind}; publish a model into it with "
            f"`rtool deploy model.onnx --name NAME --repository {repository}`"
        )
    entries = sorted(entry for entry in repository.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return tuple(ModelFolder(entry) for entry in entries)
