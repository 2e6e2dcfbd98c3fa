"""The calls behind `rtool config show`, `check`, `init` and `convert`: shown, checked, started and converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import InputError
from .config import FinetuneConfig
from .effects.settings import settings_without_effect
from .files import load_config
from .foreign.fates import KeyFate
from .foreign.recognition import Trainer, convert_foreign
from .pages import commented_config, config_template, distil_reference, loss_reference, search_reference

__all__ = ["CheckedConfig", "ConfigFile", "ConfigPage", "check", "convert", "init", "show"]


@dataclass(frozen=True)
class ConfigPage:
    """A configuration, and the page that shows it."""

    config: FinetuneConfig
    text: str
    """YAML with the meaning of each field above it; a reference where that was asked for."""


@dataclass(frozen=True)
class CheckedConfig:
    """A configuration without faults."""

    config: FinetuneConfig
    without_effect: tuple[str, ...]
    """Settings that change nothing, each with the reason."""


@dataclass(frozen=True)
class ConfigFile:
    """A configuration that was written."""

    path: Path
    left_out: tuple[str, ...] = ()
    """Settings of a converted file that have no counterpart, by name."""
    keys: tuple[KeyFate, ...] = ()
    """What became of each setting of a converted file: converted, approximated or left out, and why."""
    nproc: int | None = None
    """The processes that a converted file trains on, for `--nproc`; None where it does not say."""


def show(
    config: str | Path | FinetuneConfig | None = None,
    overrides: Sequence[str] = (),
    *,
    losses: bool = False,
    distil: bool = False,
    search: bool = False,
) -> ConfigPage:
    """Every field with its value and meaning: of `config` with `key=value` overrides, or the defaults.

    Args:
        losses: Show all kinds of losses with their fields and defaults instead.
        distil: Show the section distil with all its fields and terms instead.
        search: Show the section search with all its fields instead.

    Raises:
        InputError: the file is missing.
        ConfigError: unknown keys and wrong values, all of them in one message.

    Examples:
        >>> page = rtool.config.show(overrides=["epochs=3"])
        >>> page.config.epochs, page.text.splitlines()[1]
        (3, 'name: finetune')
    """
    resolved = load_config(config_template() if config is None else config, overrides)
    if losses or distil or search:
        return ConfigPage(
            resolved, loss_reference() if losses else distil_reference() if distil else search_reference()
        )
    return ConfigPage(resolved, commented_config(resolved))


def check(config: str | Path | FinetuneConfig, overrides: Sequence[str] = ()) -> CheckedConfig:
    """Read a configuration with `key=value` overrides, and name the settings that have no effect.

    Nothing but the file is read; `rtool finetune --dry-run` also checks model and data.

    Raises:
        InputError: the file is missing.
        ConfigError: unknown keys and wrong values, all of them in one message.
    """
    resolved = load_config(config, overrides)
    return CheckedConfig(resolved, tuple(settings_without_effect(resolved)))


def init(path: str | Path = "finetune.yaml") -> ConfigFile:
    """Write a commented configuration to `path`, to be edited.

    Raises:
        InputError: the file exists already, or cannot be written.
    """
    _write_new(Path(path), commented_config())
    return ConfigFile(Path(path))


def convert(
    file: str | Path, path: str | Path | None = None, trainer: Trainer | Literal["auto"] = "auto"
) -> ConfigFile:
    """Write the configuration of another trainer as one of rtool to `path` (default: FILE.yaml), none of it executed.

    Args:
        file: A Python configuration of arcface_torch, YAML of fast-reid, a command or YAML of torchreid, or the
            params.json of older re-ID trainers.
        path: The file to write; it begins with the settings that are not as they were.
        trainer: Whose file it is; auto finds it by its form.

    Raises:
        InputError: `file` is missing; the file to write exists already, or cannot be written.
        ConfigError: the settings make no valid configuration.
    """
    found = convert_foreign(Path(file), trainer)
    written = Path(file).with_suffix(".yaml") if path is None else Path(path)
    head = [f"# Converted from {Path(file).name}."]
    head += [f"#   {key.key}: {key.fate}: {key.note}" for key in found.keys if key.fate != "converted"]
    lines = [" ".join(line.splitlines()) for line in head]
    _write_new(written, "\n".join([*lines, commented_config(found.config)]))
    return ConfigFile(written, found.left_out, found.keys, found.nproc)


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
