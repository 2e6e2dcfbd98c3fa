"""Which trainer a configuration is of, and its conversion by the reader for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from ....errors import ConfigError, InputError
from .arcface_torch import convert_arcface_torch
from .fastreid import convert_fastreid
from .fates import Converted
from .nested import read_mapping
from .params_json import convert_params
from .torchreid import convert_torchreid

__all__ = ["TRAINERS", "Trainer", "convert_foreign", "mistaken_for_ours", "recognise"]

Trainer = Literal["arcface_torch", "fastreid", "torchreid", "params_json"]
TRAINERS = get_args(Trainer)

_READERS: Mapping[str, Callable[[Path], Converted]] = {
    "arcface_torch": convert_arcface_torch,
    "fastreid": convert_fastreid,
    "torchreid": convert_torchreid,
    "params_json": convert_params,
}
_FASTREID = {"_BASE_", "MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "OUTPUT_DIR"}
_TORCHREID = {"model", "data", "sampler", "video", "train", "sgd", "rmsprop", "adam", "loss", "test", "use_gpu"}
_TORCHREID_ALONE = _TORCHREID - {"model", "data"}
_OURS = {"losses", "schedule", "optimizer", "augment"}


def convert_foreign(path: Path, trainer: Trainer | Literal["auto"] = "auto") -> Converted:
    """The configuration of another trainer as ours, and the fate of each of its keys.

    Args:
        path: The file.
        trainer: Whose it is; auto finds it by its form.

    Raises:
        InputError: the file is missing or cannot be read.
        ConfigError: it is of no known form, or makes no valid configuration.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return _READERS[recognise(path) if trainer == "auto" else trainer](path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def recognise(path: Path) -> Trainer:
    """Whose configuration a file is, by its suffix and its sections.

    Raises:
        ConfigError: it is not recognised as that of a known trainer.
    """
    match path.suffix.lower():
        case ".json":
            return "params_json"
        case ".py":
            return "arcface_torch"
        case ".sh" | ".txt" | ".args":
            return "torchreid"
        case ".yaml" | ".yml":
            keys = {str(key) for key in read_mapping(path)}
            if keys & _FASTREID:
                return "fastreid"
            if keys & _OURS:
                raise ConfigError(f"{path}: is a configuration of rtool already; rtool finetune {path}")
            if keys & _TORCHREID:
                return "torchreid"
    raise ConfigError(
        f"{path}: not recognised as a configuration of a known trainer; name it with --from {'|'.join(TRAINERS)}"
    )


def mistaken_for_ours(path: Path, content: object) -> Trainer | None:
    """Whose configuration `content` of a file is for certain, where one of rtool was expected; None for any other."""
    if path.suffix.lower() == ".py":
        return "arcface_torch"
    if not isinstance(content, dict):
        return None
    keys = set(map(str, content))
    if keys & _OURS:
        return None
    if keys & _FASTREID:
        return "fastreid"
    if path.suffix.lower() == ".json":
        return "params_json" if keys and not {"model", "data"} <= keys else None
    sections = {str(key) for key, value in content.items() if isinstance(value, dict)}
    return "torchreid" if sections & _TORCHREID_ALONE else None
