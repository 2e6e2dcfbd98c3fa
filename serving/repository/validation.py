"""Offline check of a model repository: every problem at once, before a server refuses it one by one.

Checks the text of the configurations, the model files, the warm-up files and the folders. What only a running server
knows (whether the GPU has enough memory, whether its runtime has an operator) is not checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.files.torch_archives.torch_names import meant_positions
from ...errors import InputError, RtoolError, nearest
from .config_rules import backend_of, check_against_graph, check_settings, check_warmup
from .fronts import front_problems
from .graph_signature import GraphTensor
from .integrity import changed_files
from .model_config import ModelConfig, read_config, target_model, type_name
from .repository import MODEL_FILE, TORCH_FILE, ModelFolder, model_folders
from .signatures.reading import read_signature

__all__ = ["Problem", "placeholders", "require_valid", "servable_models", "validate_model", "validate_repository"]

_FILES = {"onnxruntime": MODEL_FILE, "pytorch": TORCH_FILE}
"""Back end -> the file that it serves by default."""


@dataclass(frozen=True)
class Problem:
    """One reason why a model cannot be served: the file or folder, and what to do."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def validate_repository(
    repository: str | Path, models: Sequence[str] | None = None, *, config_name: str | None = None
) -> tuple[Problem, ...]:
    """All problems of `models` (by default of every model) with their default or `config_name` configurations.

    Raises:
        InputError: the repository is not a folder, or has no model, or none of a given name.

    Examples:
        >>> exported = rtool.export("model.onnx", "measured.onnx")
        >>> _ = rtool.deploy(exported.path, name="network", batch="dynamic")
        >>> rtool.serving.validate_repository("model_repository")
        ()
    """
    folders = {folder.name: folder for folder in model_folders(Path(repository))}
    for name in models or ():
        if name not in folders:
            hint = nearest(name, folders) if folders else "it is empty"
            raise InputError(f"{repository}: no model {name!r}; {hint}")
    if models is None and not folders:
        raise InputError(
            f"{repository}: expected a model repository, found no folder NAME/ with config.pbtxt; publish a model with "
            "`rtool deploy model.onnx --name NAME`, or give the repository's folder"
        )
    wanted = models if models is not None else sorted(folders)
    return tuple(problem for name in wanted for problem in validate_model(folders[name].path, config_name=config_name))


def validate_model(folder: str | Path, *, config_name: str | None = None) -> tuple[Problem, ...]:
    """All problems of one model folder with its default or `config_name` configuration; empty when it can be served."""
    model = ModelFolder(Path(folder))
    path = model.variant_path(config_name)
    try:
        config = read_config(path)
    except RtoolError as error:
        return (Problem(path, str(error).removeprefix(f"{path}").lstrip(": ")),)
    problems = [Problem(path, message) for message in check_settings(config, model.name)]
    problems += [Problem(path, message) for message in check_warmup(config, model.path)]
    problems += [Problem(path, message) for message in front_problems(model, config)]
    problems += [
        Problem(model.path / name, "Triton would read this folder as a version; rename or remove it")
        for name in model.misnamed_versions()
    ]
    return (*problems, *_version_problems(model, config, path))


def require_valid(
    repository: Path, models: Sequence[str], *, config_name: str | None = None, whole: bool = False
) -> None:
    """Raise when `models` cannot be served; `whole`: the server will load every folder that it finds.

    Raises:
        InputError: there are problems, or no models; the message lists every problem.
    """
    if not models:
        raise InputError(f"{repository}: no model to serve; publish one with `rtool deploy model.onnx --name NAME`")
    problems = (
        *validate_repository(repository, models, config_name=config_name),
        *_unserved_targets(repository, models),
    )
    if whole:
        problems += tuple(
            Problem(
                entry, "Triton would load this hidden folder as a model; remove it, or serve with --control explicit"
            )
            for entry in sorted(repository.iterdir())
            if entry.is_dir() and entry.name.startswith(".")
        )
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem keeps" if len(problems) == 1 else f"{len(problems)} problems keep"
        raise InputError(f"{repository}: {count} it from being served:\n{lines}")


def _unserved_targets(repository: Path, models: Sequence[str]) -> Iterator[Problem]:
    for name in models:
        model = ModelFolder(repository / name)
        target = _target_of(model)
        if target is not None and target not in models:
            yield Problem(model.config_path, f"TARGET_MODEL: {target!r} must be served too; name it as well")


def servable_models(repository: str | Path) -> tuple[str, ...]:
    """Names of the models whose weights are present; a placeholder does not keep the others from being served.

    Raises:
        InputError: the repository is not a folder, or no model has weights; the message says how to make them.
    """
    folders = model_folders(Path(repository))
    ready = tuple(folder.name for folder in folders if not missing_weights(folder))
    if not ready:
        lines = "".join(f"\n  {problem}" for folder in folders for problem in missing_weights(folder))
        way_out = lines or f" publish one with `rtool deploy model.onnx --name NAME --repository {repository}`"
        raise InputError(f"{repository}: no model with weights to serve;{way_out}")
    return ready


def placeholders(repository: str | Path) -> tuple[Problem, ...]:
    """The models without weights, each with the command that makes its weights.

    Raises:
        InputError: the repository is not a folder.
    """
    return tuple(problem for folder in model_folders(Path(repository)) for problem in missing_weights(folder))


def missing_weights(model: ModelFolder) -> tuple[Problem, ...]:
    """At most one problem, with the command that makes the weights: the model is a placeholder, or packs for one."""
    return _without_weights(model) or _target_without_weights(model)


def _without_weights(model: ModelFolder) -> tuple[Problem, ...]:
    versions = model.versions()
    if any(model.has_model(version) for version in versions):
        return ()
    if not versions:
        return (Problem(model.path, f"no version folder; publish a version with {_publish_command(model, None)}"),)
    way_out = _publish_command(model, versions[-1])
    return (Problem(model.model_path(versions[-1]), f"the weights are not there; make them with {way_out}"),)


def _target_without_weights(model: ModelFolder) -> tuple[Problem, ...]:
    target = _target_of(model)
    if target is None:
        return ()
    folder = ModelFolder(model.path.parent / target)
    if not folder.config_path.is_file():
        return (Problem(model.config_path, f"TARGET_MODEL: there is no model {target!r} in this repository"),)
    return tuple(
        Problem(model.config_path, f"TARGET_MODEL {target!r} cannot be served: {problem}")
        for problem in _without_weights(folder)
    )


def _target_of(model: ModelFolder) -> str | None:
    try:
        return target_model(read_config(model.config_path))
    except RtoolError:
        return None  # reported where the configuration itself is checked


def _publish_command(model: ModelFolder, version: int | None) -> str:
    manifest = model.manifest(version) if version is not None else None
    command = (manifest or {}).get("command")
    default = f"rtool deploy model.onnx --name {model.name} --repository {model.path.parent}"
    return f"`{command or default}`"


def _version_problems(model: ModelFolder, config: ModelConfig, path: Path) -> Iterator[Problem]:
    if absent := missing_weights(model):
        yield from absent
        return
    served = list(_served(model, config))
    if not served:
        yield Problem(path, "version_policy: lists no version")
    for version in served:
        if version not in model.versions():
            found = ", ".join(map(str, model.versions()))
            yield Problem(path, f"version_policy: version {version} has no folder (found: {found})")
        else:
            yield from _one_version(model, config, path, version)


def _served(model: ModelFolder, config: ModelConfig) -> Sequence[int]:
    policy = config.version_policy
    if policy.HasField("specific"):
        return tuple(policy.specific.versions)
    if policy.HasField("all"):
        return model.versions()
    newest = policy.latest.num_versions if policy.HasField("latest") else 1
    return model.versions()[-max(newest, 1) :]


def _zeros(config: ModelConfig) -> dict[str, NDArray[Any]]:
    """Inputs as the configuration states them, by position, to run a torch file that states no shapes."""
    entries = list(config.input)
    arrays: dict[str, NDArray[Any]] = {}
    for position, entry in zip(meant_positions([entry.name for entry in entries]), entries, strict=True):
        dims = [max(size, 1) for size in (entry.reshape.shape if entry.HasField("reshape") else entry.dims)]
        tensor = GraphTensor(entry.name, type_name(entry.data_type), ())
        array = np.zeros(([2] if config.max_batch_size > 0 else []) + dims, tensor.dtype)
        arrays |= {entry.name: array, f"INPUT__{position}": array}
    return arrays


def _one_version(model: ModelFolder, config: ModelConfig, path: Path, version: int) -> Iterator[Problem]:
    backend = backend_of(config)
    if backend == "python":
        code = model.version_path(version) / "model.py"
        if not code.is_file():
            yield Problem(code, "the Python back end needs this file")
        yield from (Problem(place, reason) for place, reason in changed_files(model, version))
        return
    if backend not in _FILES or config.platform == "torch_aoti":
        return  # a compiled program is machine code, which is not opened here
    name = config.default_model_filename or _FILES[backend]
    weights = model.version_path(version) / name
    if weights.is_dir():
        weights = weights / "model.onnx"
    if not weights.is_file():
        yield Problem(weights, f"the weights are not there; make them with {_publish_command(model, version)}")
        return
    try:
        changed = list(changed_files(model, version, name))
    except RtoolError as error:
        yield Problem(model.version_path(version), str(error))
        return
    yield from (Problem(place, reason) for place, reason in changed)
    try:
        signature = read_signature(weights, partial(_zeros, config), backend=backend)
    except RtoolError as error:
        yield Problem(weights, str(error).removeprefix(f"{weights}").lstrip(": "))
        return
    for message in check_against_graph(config, signature):
        yield Problem(path, f"version {version}: {message}")
