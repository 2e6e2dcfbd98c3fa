"""A model folder as it was, so that a publish or a rollback that fails leaves nothing behind.

Weights are not copied: versions are never changed in place. What is put back is written atomically, and the
configuration gets a new date, because Triton reloads only what is newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..repository.repository import CONFIG_FILE, ModelFolder
from .publication import remove_whole, replace_configs, write_atomically

__all__ = ["Snapshot", "take_snapshot", "undone_on_error"]


@dataclass(frozen=True)
class Snapshot:
    """The files of a model folder without weights and warm-up data, by path below it; None: there was no folder."""

    folder: ModelFolder
    texts: dict[str, bytes] | None
    versions: tuple[int, ...]
    warmup: frozenset[str]

    def restore(self, staging: Path) -> None:
        """Put everything back; versions and warm-up files that came since are removed."""
        folder = self.folder
        if self.texts is None:
            if folder.path.exists():
                remove_whole(folder.path, staging)
            return
        for name in _texts(folder).keys() - self.texts.keys():
            (folder.path / name).unlink()
        configs = {name: text.decode() for name, text in self.texts.items() if _is_served(name)}
        replace_configs(folder, configs, staging)
        for version in set(folder.versions()) - set(self.versions):
            remove_whole(folder.version_path(version), staging)
        for version in self.versions:  # a placeholder that was filled lacks its weights again
            if folder.has_model(version) and f"{version}/{_PLACEHOLDER}" in self.texts:
                remove_whole(folder.version_path(version), staging)
        for name, content in self.texts.items():
            path = folder.path / name.replace(_PLACEHOLDER, "manifest.json")
            if not _is_served(name) and not (path.is_file() and path.read_bytes() == content):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content, staging)
        for path in (folder.path / "warmup").glob("*"):
            if path.name not in self.warmup:
                path.unlink()
        for path in (*(folder.path / "history").glob("*"), folder.path / "history", folder.path / "warmup"):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


@contextmanager
def undone_on_error(folder: ModelFolder, staging: Path) -> Iterator[Snapshot]:
    """The folder as it is now, and as it is again where the block ends by an error.

    A disk that is full keeps what of it cannot be put back; what serves is then still the version from before.
    """
    before = take_snapshot(folder)
    try:
        yield before
    except BaseException:
        with suppress(OSError):
            if before.texts is not None and folder.config_path.read_bytes() == before.texts[CONFIG_FILE]:
                for version in set(folder.versions()) - set(before.versions):  # nothing names it; this makes room
                    remove_whole(folder.version_path(version), staging)
            before.restore(staging)
        raise


_PLACEHOLDER = "manifest.json of a placeholder"


def take_snapshot(folder: ModelFolder) -> Snapshot:
    """The folder as it is now."""
    if not folder.path.is_dir():
        return Snapshot(folder, None, (), frozenset())
    texts = _texts(folder)
    for version in folder.versions():
        manifest = folder.version_path(version) / "manifest.json"
        if manifest.is_file() and not folder.has_model(version):
            texts[f"{version}/{_PLACEHOLDER}"] = manifest.read_bytes()
    warmup = frozenset(path.name for path in (folder.path / "warmup").glob("*"))
    return Snapshot(folder, texts, folder.versions(), warmup)


def _texts(folder: ModelFolder) -> dict[str, bytes]:
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in folder.path.rglob("*.pbtxt")}


def _is_served(name: str) -> bool:
    """Whether a path below the model folder is a configuration that a server reads."""
    return name.endswith(".pbtxt") and not name.startswith("history/")
