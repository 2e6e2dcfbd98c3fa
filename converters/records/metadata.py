"""Which BatchNorms were folded into which weights, as rtool's own exports state it in a model's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .json_text import parse_json

__all__ = ["FOLDED_KEY", "stated_folds"]

FOLDED_KEY = "rtool.folded_batchnorms"
"""Model metadata: JSON of weight initializer -> path of the BatchNorm folded into it."""


def stated_folds(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a model's metadata says of folded BatchNorms; empty where it says nothing that can be read."""
    try:
        stated = parse_json(metadata.get(FOLDED_KEY, "{}"))
    except json.JSONDecodeError:
        return {}
    return {str(weight): str(name) for weight, name in stated.items()} if isinstance(stated, dict) else {}
