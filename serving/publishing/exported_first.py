"""Publishes a bundle or a run folder: it is exported first, with the default gates, and what was run is said.

A server that cannot take the version is refused before that.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, cast

from ..repository.deployed import DeployResult
from ..repository.manifest import EXPORTED_FROM
from .on_server.fitting_server import require_fitting_server

__all__ = ["REPOSITORY", "exported_first"]

REPOSITORY = "model_repository"
"""Where models are published unless another place is given."""

P = ParamSpec("P")


def exported_first(
    publish: Callable[Concatenate[str | Path, P], DeployResult],
) -> Callable[Concatenate[str | Path, P], DeployResult]:
    """`publish` for bundles and run folders too; it gets the ONNX file that they are exported to.

    The export is that of `rtool export MODEL [--batch N]`, and raises what it raises; the file is published and not
    kept elsewhere.
    """

    @wraps(publish)
    def deploy(model: str | Path, *args: P.args, **options: P.kwargs) -> DeployResult:
        given: dict[str, Any] = dict(options)
        if given.get("url") is not None:
            require_fitting_server(given["url"], Path(given.get("repository", REPOSITORY)))
        if not _is_exportable(Path(model)):
            return publish(model, *args, **options)
        from ...converters.exporting.pipeline import export

        batch, name = given.get("batch"), str(given.get("name"))
        command = ["rtool", "export", str(model), *(["--batch", str(batch)] if batch else []), "-o", f"{name}.onnx"]
        given["provenance"] = {**(given.get("provenance") or {}), EXPORTED_FROM: str(model)}
        with tempfile.TemporaryDirectory(prefix="rtool-deploy-") as folder:
            exported = export(model, Path(folder) / "model.onnx", batch=batch)
            result = publish(exported.path, *args, **given)
        steps = ", ".join(step.name for step in exported.steps)
        return replace(result, notes=(f"exported with `{shlex.join(command)}` ({steps})", *result.notes))

    return cast("Callable[Concatenate[str | Path, P], DeployResult]", deploy)


def _is_exportable(path: Path) -> bool:
    """Whether it is a bundle or a run folder."""
    return (path / "bundle.json").is_file() or (path / "checkpoints").is_dir()
