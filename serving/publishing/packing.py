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
from ..repository.deployed import DeployResult, newest_served
from ..repository.manifest import packer_manifest
from ..repository.model_config import build_packer_config, read_config, write_config
from ..repository.repository import CONFIG_FILE, ModelFolder, check_model_name
from ..repository.served_preprocessing import copy_preprocessing
from .publication import Publication, publish, publishing, remember_configs

__all__ = ["deploy_packer"]

_BACKENDS = Path(__file__).resolve().parent.parent / "backends"
_FILES = {"model.py": _BACKENDS / "packer.py", "triton_tensors.py": _BACKENDS / "triton_tensors.py"}


def deploy_packer(
    target: str, *, name: str, repository: str | Path = "model_repository", max_delay: float = 3.0, instances: int = 2
) -> DeployResult:
    """Publish `name`, which packs single rows into the fixed batch of `target`.

    `max_delay` is how long a batch waits to fill, in milliseconds; `instances` should be one more than the target's, so
    that one instance collects rows while the others wait for answers.

    Raises:
        InputError: there is no such target in the repository, or its batch is dynamic and needs no packer.
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
        config = build_packer_config(
            name, target_config, batch=batch, versions=(version,), max_delay=max_delay, instances=instances
        )
        copy_preprocessing(config, target_config)
        if problems := list(check_settings(config, name)):
            raise InputError(f"{folder.path}: {'; '.join(problems)}")
        if previous is not None:
            remember_configs(folder, previous, staging)
        digests = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in _FILES.items()}
        manifest = packer_manifest(name, version, target=target, batch=batch, previous=previous, digests=digests)
        publish(
            Publication(folder, version, _FILES, digests, {CONFIG_FILE: write_config(config)}, (), manifest), staging
        )
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
        notes=(f"packs rows into batches of {batch} for {target}",),
    )


def _fixed_batch(target: ModelFolder, config: Any) -> int:
    firsts = {entry.dims[0] for entry in (*config.input, *config.output) if entry.dims}
    if config.max_batch_size > 0 or len(firsts) != 1 or min(firsts) < 2:
        raise InputError(
            f"{target.config_path}: a packer needs a fixed batch of 2 or more in every input and output, "
            f"got max_batch_size {config.max_batch_size} and {sorted(firsts)}; a dynamic batch needs no packer"
        )
    return int(firsts.pop())
