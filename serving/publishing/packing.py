"""Publish a packer: a Triton model that accepts single rows and has them computed by a model with a fixed batch.

The server side is `backends/packer.py`. Clients of the packer send any number of rows up to the batch per request, and
Triton fills the batches. In a simulation with re-ID crops at 90 % load, the 95th percentile of latency was 35 ms with
one crop per request and 216 ms with 1 to 5 crops per request. A model with a dynamic batch needs no packer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..repository.config_rules import check_settings
from ..repository.config_text import edited_text
from ..repository.deployed import DeployResult, newest_served
from ..repository.fronts import front_changes
from ..repository.manifest import packer_manifest
from ..repository.model_config import ModelConfig, build_packer_config, read_config, target_model, write_config
from ..repository.repository import CONFIG_FILE, ModelFolder, check_model_name
from ..repository.served_preprocessing import copy_preprocessing
from ..repository.serving_settings import ServingSettings, apply_settings
from .contract import check_contract, contract_of, describe_changes
from .publication import Publication, publish, publishing, remember_configs
from .snapshot import undone_on_error

__all__ = ["deploy_packer"]

_BACKENDS = Path(__file__).resolve().parent.parent / "backends"
_FILES = {"model.py": _BACKENDS / "packer.py", "triton_tensors.py": _BACKENDS / "triton_tensors.py"}


def deploy_packer(
    target: str,
    *,
    name: str,
    repository: str | Path = "model_repository",
    max_delay: float | None = None,
    instances: int | None = None,
    new_contract: bool = False,
) -> DeployResult:
    """Publish `name`, which packs single rows into the fixed batch of `target`.

    `max_delay` is how long a batch waits to fill, in milliseconds: by default 15 for a target on a CPU and 3 on a GPU,
    about the time of a batch. `instances`, 2 by default, should be one more than the target's, so that one instance
    collects rows while the others wait for answers. A setting that is not given stays as it is served, hand edits
    included. `new_contract` allows other inputs, outputs or rows per request than the version that is served so far.

    Raises:
        InputError: there is no such target in the repository, its batch is dynamic and needs no packer, or the contract
            would change.
        ConfigError: the target's configuration does not parse.
        PlatformError: another publisher held the repository for 300 s.
    """
    check_model_name(name)
    root = Path(repository)
    folder, target_folder = ModelFolder(root / name), ModelFolder(root / check_model_name(target))
    if name == target:
        raise InputError(f"packer {name!r}: needs a name other than its target's")
    target_config = read_config(target_folder.config_path)
    batch = _fixed_batch(target_folder, target_config)
    with publishing(root) as staging:
        previous = newest_served(folder)
        version = max(folder.versions(), default=0) + 1
        served = read_config(folder.config_path) if previous is not None else None
        fresh = build_packer_config(name, target_config, batch=batch, versions=(version,))
        copy_preprocessing(fresh, target_config)
        config, text = _planned(folder, served, fresh, ServingSettings(max_delay=max_delay, instances=instances))
        changes = [] if served is None else describe_changes(contract_of(served), contract_of(config))
        changes += front_changes(folder, served, config)
        notes = check_contract(name, changes, new_contract=new_contract)
        digests = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in _FILES.items()}
        manifest = packer_manifest(name, version, target=target, batch=batch, previous=previous, digests=digests)
        with undone_on_error(folder, staging):
            if previous is not None:
                remember_configs(folder, previous, staging)
            publish(Publication(folder, version, _FILES, digests, {CONFIG_FILE: text}, (), manifest), staging)
    return DeployResult(
        path=folder.version_path(version),
        name=name,
        version=version,
        config=folder.config_path,
        served=(version,),
        previous=previous,
        batch=None,
        device="cpu",
        sha256=digests["model.py"],
        notes=(f"packs rows into batches of {batch} for {target}", *notes),
    )


def _planned(
    folder: ModelFolder, served: ModelConfig | None, fresh: ModelConfig, settings: ServingSettings
) -> tuple[ModelConfig, str]:
    """The configuration with `settings` and its text: the served one of a packer continued, or `fresh`."""
    continues = served is not None and target_model(served) is not None
    config = _continued(served, fresh) if continues else fresh
    apply_settings(config, settings, "cpu")
    if problems := list(check_settings(config, folder.name)):
        raise InputError(f"{folder.path}: {'; '.join(problems)}")
    path = folder.config_path
    return config, (edited_text(path.read_text(), config, path) if continues else None) or write_config(config)


def _continued(served: ModelConfig, fresh: ModelConfig) -> ModelConfig:
    """The configuration served so far, with what the target decides taken from `fresh`."""
    config = type(served)()
    config.CopyFrom(served)
    config.max_batch_size = fresh.max_batch_size
    for field in ("input", "output"):
        config.ClearField(field)
        getattr(config, field).extend(getattr(fresh, field))
    config.parameters["TARGET_MODEL"].string_value = fresh.parameters["TARGET_MODEL"].string_value
    config.version_policy.CopyFrom(fresh.version_policy)
    return config


def _fixed_batch(target: ModelFolder, config: Any) -> int:
    firsts = {entry.dims[0] for entry in (*config.input, *config.output) if entry.dims}
    if config.max_batch_size > 0 or len(firsts) != 1 or min(firsts) < 2:
        raise InputError(
            f"{target.config_path}: a packer needs a fixed batch of 2 or more in every input and output, "
            f"got max_batch_size {config.max_batch_size} and {sorted(firsts)}; a dynamic batch needs no packer"
        )
    return int(firsts.pop())
