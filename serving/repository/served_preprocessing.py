"""What a served model states of its preprocessing, so that nobody who evaluates it has to guess.

`config.pbtxt` gets the parameter `rtool.preprocessing`, JSON as in the metadata of a file; Triton's back ends ignore
keys that they do not know. What the file states, its graph shows or the user says is written; a guess never is.
"""

from __future__ import annotations

import json

from ...converters.preprocessing.decision import PreprocessingDecision, known_preprocessing
from ...converters.preprocessing.evidence import stated_in_metadata
from ...converters.records.preprocessing import METADATA_KEY, Preprocessing
from ...errors import InputError
from .graph_signature import GraphSignature
from .model_config import ModelConfig

__all__ = ["copy_preprocessing", "served_preprocessing", "state_preprocessing"]

_ADVICE = "state it with --preprocessing, or whoever evaluates the served model has to"


def served_preprocessing(
    signature: GraphSignature, said: str | Preprocessing | None = None
) -> PreprocessingDecision | str:
    """What is certain of the preprocessing of a file, or in words why nothing is.

    Args:
        signature: of the file.
        said: a preprocessing, or what `--preprocessing` takes.

    Raises:
        InputError: `said` is not a preprocessing, or the model cannot have it.
    """
    evidence = signature.evidence
    try:
        evidence = evidence.stating(stated_in_metadata(evidence.label, signature.metadata), "stated in the file")
    except InputError as error:
        if said is None:
            return str(error)
    found = known_preprocessing(evidence, said)
    if isinstance(found, str):
        return f"preprocessing unknown: {found}"
    if found.kind in ("architecture", "size") and "given: " not in found.reason:
        return f"preprocessing not stated in the file, and {found.reason} is not a statement; {_ADVICE}"
    return found


def state_preprocessing(config: ModelConfig, found: PreprocessingDecision | str) -> None:
    """Write the preprocessing into a configuration, in place; one that is there stays where nothing is certain."""
    if not isinstance(found, str):
        config.parameters[METADATA_KEY].string_value = json.dumps(found.preprocessing.to_dict())


def copy_preprocessing(config: ModelConfig, target: ModelConfig) -> None:
    """State of a packer, in place, what its target states."""
    if METADATA_KEY in target.parameters:
        config.parameters[METADATA_KEY].string_value = target.parameters[METADATA_KEY].string_value
