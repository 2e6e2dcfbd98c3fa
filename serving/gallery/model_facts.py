"""What is stated of the model at the head of a gallery: its content, parameters, input and output."""

from __future__ import annotations

from dataclasses import dataclass

from ...converters.inspection.inspecting import inspect
from ...converters.inspection.inspection import Inspection
from ...errors import RtoolError
from .models import OpenedModel

__all__ = ["ModelFacts", "model_facts"]


@dataclass(frozen=True)
class ModelFacts:
    """Of the model that ran."""

    sha256: str
    """Of its content; empty where nothing states it, as of some served models."""
    rows: dict[str, str]


def model_facts(model: OpenedModel) -> ModelFacts:
    """Facts of an opened model; what a served model does not state is left out."""
    embedder, attempt = model.embedder, model.attempts[-1]
    try:
        digest = embedder.digest()
    except RtoolError:
        digest = ""
    rows = {"model": attempt.reference, "backend": f"{attempt.model_type} on {attempt.device}"}
    if attempt.model_type != "triton":
        found = inspect(attempt.reference)
        if isinstance(found, Inspection):
            rows["parameters"] = f"{found.parameters:,}"
    rows["preprocessing"] = str(embedder.decision)
    return ModelFacts(digest, rows)
