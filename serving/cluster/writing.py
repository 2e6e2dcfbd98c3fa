"""`rtool deploy --kubernetes DIR`: writes the manifests of a repository that can be served.

deployment.yaml service.yaml autoscaler.yaml network-policy.yaml disruption-budget.yaml volume-claim.yaml
kustomization.yaml      all of these, for `kubectl apply -k DIR`
key.env                 the key that closes shared memory, trace and logging; new each time, mode 0600, never shared
adapter-rule.yaml       values for the Prometheus adapter, which gives the autoscaler its metric
kserve/                 the same repository as an InferenceService, instead of all these
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...converters.files.folders import replace_folder
from ...errors import GateError, InputError
from ..publishing.checking import check
from ..releases.advisories import lacking
from .manifests import adapter_rule, inference_service, kustomization, manifests
from .pod import ClusterOptions

__all__ = ["KubernetesResult", "write_kubernetes"]

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_TAG = re.compile(r".+:(\d\d\.\d\d)-[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class KubernetesResult:
    """What was written: `path` is the folder; `image` and the models that its volume must hold."""

    path: Path
    files: tuple[str, ...]
    image: str
    models: tuple[str, ...]


def write_kubernetes(
    output: str | Path, *, repository: str | Path = "model_repository", options: ClusterOptions | None = None
) -> KubernetesResult:
    """Write the manifests that serve `repository` into the new folder `output`; nothing is applied or copied.

    Raises:
        InputError: the folder exists, the repository has no models, or an option cannot be: a name that Kubernetes
            does not take, an image that is pinned neither by digest nor by release, or whose release lacks a fix.
        GateError: the repository cannot be served by the image's release.
    """
    chosen = options or ClusterOptions()
    release = _check_options(chosen)
    report = check(repository, config_name=chosen.config_name, **({"target": release} if release else {}))
    if report.problems:
        raise GateError("\n".join(report.problems))
    models = tuple(sorted(path.name for path in Path(repository).iterdir() if (path / "config.pbtxt").is_file()))
    if not models:
        raise InputError(f"{repository}: no model to serve; publish one with `rtool deploy model.onnx --name NAME`")
    path, files = Path(output), manifests(chosen)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder {path.absolute().parent} does not exist; create it first")
    with replace_folder(path) as draft:
        for name, content in files.items():
            _write(draft / name, content)
        _write(draft / "kustomization.yaml", kustomization(chosen, list(files)))
        _write(draft / "adapter-rule.yaml", adapter_rule())
        (draft / "kserve").mkdir()
        _write(draft / "kserve/inference-service.yaml", inference_service(chosen))
        (draft / ".gitignore").write_text("key.env\n")
    with os.fdopen(os.open(path / "key.env", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as key:
        key.write(f"key={secrets.token_hex(32)}\n")
    written = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return KubernetesResult(path, tuple(written), chosen.image, models)


def _write(path: Path, content: dict[str, Any]) -> None:
    import yaml

    path.write_text(f"# Written by `rtool deploy --kubernetes`.\n{yaml.safe_dump(content, sort_keys=False)}")


def _check_options(options: ClusterOptions) -> str | None:
    """The release of the image, None for one pinned by digest.

    Raises:
        InputError: an option cannot be.
    """
    for what, name in (("name", options.name), ("claim", options.claim)):
        if not _NAME.fullmatch(name):
            raise InputError(f"{what} {name!r}: Kubernetes takes lower-case letters, digits and '-', 52 at most")
    if not 1 <= options.replicas <= options.most_replicas:
        raise InputError(f"replicas {options.replicas} to {options.most_replicas}: expected 1 or more, in this order")
    if options.queue_ms <= 0 or options.gpus < 0:
        raise InputError(f"queue_ms {options.queue_ms:g}, gpus {options.gpus}: expected positive numbers")
    if _DIGEST.fullmatch(options.image):
        return None
    tag = _TAG.fullmatch(options.image)
    if tag is None:
        raise InputError(f"image {options.image!r}: pin it by digest (NAME@sha256:...) or by release (NAME:26.07-py3)")
    if faults := lacking(tag[1]):
        raise InputError(
            f"image {options.image!r}: release {tag[1]} lacks {len(faults)} security fixes, {faults[0]} among them; "
            f"take {max(fault.fixed for fault in faults)} or newer"
        )
    return tag[1]
