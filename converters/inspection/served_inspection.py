"""`inspect triton://host:port/model`: what a server states of a model. Its graph and weights stay on the server."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from ..preprocessing.evidence import stated_in_metadata
from ..records.preprocessing import Preprocessing
from ..records.record import TensorSpec
from ..runtime.triton import TritonModel, TritonReference

__all__ = ["ServedInspection", "inspect_served"]

_TARGET = "TARGET_MODEL"
"""Parameter of a packer: the model behind it."""


@dataclass(frozen=True)
class ServedInspection:
    """What a server states of a model, and of the version that it was asked for."""

    name: str
    """The model reference."""
    kind: str
    """"served"."""
    backend: str
    version: int | None
    """The version that was asked for, else the highest that is ready."""
    versions: tuple[int, ...]
    """Those that are ready."""
    sha256: str | None
    """Of its file, where the deployment states it."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | str
    """The fixed batch, or "dynamic"."""
    max_batch: int
    """Rows of the largest request; of a fixed batch, its rows."""
    on_cpu: bool
    """Whether all its instances are on a CPU."""
    target: str | None
    """The model that a packer stands in front of."""
    preprocessing: Preprocessing | None
    preprocessing_origin: str


def inspect_served(reference: str) -> ServedInspection:
    """Ask the server of `triton://host:port/model[/version]`.

    Raises:
        InputError: the reference has another form, or the server has no such model or version.
        PlatformError: no server answers.
    """
    parsed = TritonReference.parse(reference)
    with TritonModel(parsed.url, parsed.model, parsed.version) as model:
        try:
            sha256 = model.served_digest()
        except InputError:
            sha256 = None
        stated = stated_in_metadata(reference, model.parameters)
        return ServedInspection(
            name=reference,
            kind="served",
            backend=model.backend,
            version=parsed.version or max(model.versions, default=None),
            versions=model.versions,
            sha256=sha256,
            inputs=model.inputs,
            outputs=model.outputs,
            batch=model.batch or "dynamic",
            max_batch=model.batch or model.max_batch,
            on_cpu=model.on_cpu,
            target=model.parameters.get(_TARGET),
            preprocessing=stated,
            preprocessing_origin="not stated by the server" if stated is None else "stated by the server",
        )
