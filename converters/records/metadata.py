"""The metadata key in which rtool's exports record which BatchNorm was folded into which weight."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .json_text import parse_json

__all__ = ["FOLDED_KEY", "stated_folds"]

FOLDED_KEY = "rtool.folded_batchnorms"
"""Model metadata: JSON of weight initializer -> path of the BatchNorm folded into it."""


def stated_folds(metadata: Mapping[str, str]) -> dict[str, str]:
    """Weight initializer -> path of the BatchNorm folded into it; empty where the metadata has no readable entry."""
    try:
        stated = parse_json(metadata.get(FOLDED_KEY, "{}"))
    except json.JSONDecodeError:
        return {}
    return {str(weight): str(name) for weight, name in stated.items()} if isinstance(stated, dict) else {}
