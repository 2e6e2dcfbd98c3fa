"""Compares the models of a repository with what a Triton release reads: `serve --check --target`.

The graphs are held to the release's ONNX Runtime (`converters/passes/targets.py`): opset, IR version, domains of
operators, and bfloat16. Whether that runtime has a kernel for an operator and type is not checked here: only a run
shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ...converters.files.model_bytes import read_model_bytes
from ...converters.passes.targets import find_target, target_problems, triton_runtime
from ...errors import RtoolError
from ..releases.advisories import what_it_lacks
from ..releases.config_facts import config_problems
from ..repository.config_rules import backend_of
from ..repository.model_config import read_config
from ..repository.repository import ModelFolder, model_folders

__all__ = ["DEFAULT_RELEASE", "ReleaseFit", "check_release"]

DEFAULT_RELEASE = "26.07"
"""The release of the container image, and of `--target` unless another one is given."""


@dataclass(frozen=True)
class ReleaseFit:
    """What a server of `release`, with ONNX Runtime `runtime`, refuses of a repository, and what it lacks itself."""

    release: str
    runtime: str
    refused: tuple[str, ...]
    lacks: str

    def __str__(self) -> str:
        """One line per thing to know: what it refuses, then the security fixes that it lacks."""
        name = f"Triton {self.release} (ONNX Runtime {self.runtime})"
        said = f"{name} refuses: {'; '.join(self.refused)}" if self.refused else f"{name} refuses nothing known here"
        return "\n".join(filter(None, (said, self.lacks)))


def check_release(
    repository: str | Path,
    models: Sequence[str] | None = None,
    *,
    release: str = DEFAULT_RELEASE,
    config_name: str | None = None,
    embedded: bool = False,
) -> ReleaseFit:
    """Compare `models` (by default all) with a release; unreadable files are left to `validate_repository`.

    `embedded` adds what the server that rtool downloads cannot do beside NVIDIA's image of the same release.

    Raises:
        InputError: the repository is not a folder, or an unknown release; the message lists the nearest ones.
    """
    runtime = triton_runtime(release)
    refused = [
        f"{folder.name}: {problem}"
        for folder in model_folders(Path(repository))
        if models is None or folder.name in models
        for problem in _model_problems(folder, release, config_name, embedded=embedded)
    ]
    return ReleaseFit(release, runtime, tuple(dict.fromkeys(refused)), what_it_lacks(release))


def _model_problems(folder: ModelFolder, release: str, config_name: str | None, *, embedded: bool) -> Iterator[str]:
    try:
        config = read_config(folder.variant_path(config_name))
    except RtoolError:
        return
    backend = backend_of(config)
    yield from config_problems(config, backend, release, embedded=embedded)
    if backend != "onnxruntime":
        return
    target = f"triton:{release}"
    for version in folder.versions():
        if not folder.has_model(version):
            continue
        try:
            model = onnx.ModelProto.FromString(read_model_bytes(folder.model_path(version)))
        except (RtoolError, DecodeError):
            continue
        newest = find_target(target).ir_version
        if model.ir_version > newest:
            yield (
                f"version {version}: IR version {model.ir_version} is newer than {target} reads ({newest}); export it "
                f"with --target {target}"
            )
        for problem in target_problems(model, target):
            yield f"version {version}: {problem}"
