"""Matcher and visibility head beside the weights of a bundle: `matching.safetensors`.

A bundle holds the backbone. A run with a loss over feature maps also keeps what compares two images: tensors under
`matcher.` and `visibility.`, and in the file's metadata which map they read and how.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...converters.records.json_text import parse_json
from ...errors import InputError
from ..network.feature_maps import find_map
from ..network.learner import Learner
from .described import MatchingModel
from .map_losses import matching_model
from .matcher import Matcher
from .visibility import VisibilityHead

__all__ = ["MATCHING", "has_matching", "load_matching", "save_matching"]

MATCHING = "matching.safetensors"
_FACTS = "rtool"


@dataclass(frozen=True)
class _Facts:
    """What the tensors alone do not say."""

    map: str
    output: int
    size: tuple[int, int]
    visibility: str
    """The method of the matcher, or none."""


def has_matching(bundle: str | Path) -> bool:
    """Whether a bundle has a matcher."""
    return (Path(bundle) / MATCHING).is_file()


def save_matching(bundle: Path, learner: Learner, output: int) -> None:
    """Write the matcher of a run, and its visibility head, into a bundle; nothing where the run has no matcher.

    `output` is the number of the backbone's output that is the embedding.
    """
    model = matching_model(learner, output)
    if model is None:
        return
    parts: dict[str, nn.Module] = {"matcher": model.matcher}
    if model.visibility is not None:
        parts["visibility"] = model.visibility
    method = model.matcher.weighting if model.uses_visibility else "none"
    facts = {"map": model.tap.name, "output": output, "size": list(model.tap.size), "visibility": method}
    tensors: dict[str, Tensor] = {
        f"{part}.{name}": value.detach().cpu().contiguous()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    save_file(tensors, bundle / MATCHING, metadata={"format": "pt", _FACTS: json.dumps(facts)})


def load_matching(bundle: str | Path, backbone: nn.Module, images: Tensor) -> MatchingModel:
    """The matcher of a bundle, in eval mode, on the backbone of the same bundle.

    Args:
        bundle: Its folder.
        backbone: Left in eval mode.
        images: Two normalised images, on which the map is measured.

    Raises:
        ConfigError: the backbone has no such map.
        InputError: the bundle has no matcher, its file is damaged, or the two do not fit.
    """
    path = Path(bundle) / MATCHING
    facts, tensors = _read(path)
    tap = find_map(backbone, images, facts.output, facts.map)
    if tap.size != facts.size:
        got, own = ("x".join(map(str, size)) for size in (tap.size, facts.size))
        raise InputError(f"{path}: its matcher compares maps of {own}, and the model gives {got}")
    matcher = Matcher(facts.size, "mask" if facts.visibility == "mask" else "scaling")
    _fill(matcher, "matcher.", tensors, path)
    head = None
    if (kernel := tensors.get("visibility.conv.weight")) is not None:
        head = VisibilityHead(kernel.shape[1], kernel.shape[0])
        _fill(head, "visibility.", tensors, path)
        head.to(images.device).eval()
    told = head is not None and facts.visibility != "none"
    return MatchingModel(tap, facts.output, matcher.to(images.device).eval(), head, uses_visibility=told)


def _read(path: Path) -> tuple[_Facts, dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"{path.parent}: has no matcher; train with a loss qaconv, or score by embedding alone")
    try:
        with safe_open(path, framework="pt") as file:
            said = parse_json((file.metadata() or {})[_FACTS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        height, width = (int(side) for side in said["size"])
        facts = _Facts(str(said["map"]), int(said["output"]), (height, width), str(said["visibility"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); train again, or take another checkpoint") from error
    return facts, tensors


def _fill(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(f"{path}: does not fit its own facts ({error}); take another checkpoint") from error
