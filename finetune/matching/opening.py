"""The matcher of a run or a bundle, opened to compare images."""

from __future__ import annotations

from pathlib import Path

import torch

from ...converters.bundles.reference import load_model, resolve_run_folder
from ...converters.records.preprocessing import Preprocessing
from ..network.networks import images_to_tensor
from .pair_matcher import ModelMatcher
from .stored import has_matching, load_matching

__all__ = ["open_matcher"]


def open_matcher(reference: str | Path, preprocessing: Preprocessing, device: str = "cpu") -> ModelMatcher | None:
    """The matcher that a run folder or a bundle holds beside its backbone; None where it holds none.

    Args:
        reference: A model reference.
        preprocessing: How its images are prepared.
        device: "cpu" or "cuda:N".

    Raises:
        ConfigError, InputError: as `load_matching`.
    """
    path = Path(reference)
    bundle = resolve_run_folder(path) or path
    if not has_matching(bundle):
        return None
    where = torch.device(device)
    backbone = load_model(bundle).module.to(where).eval()
    blank = torch.zeros(2, preprocessing.height, preprocessing.width, preprocessing.channels, dtype=torch.uint8)
    images = images_to_tensor(blank, preprocessing, where, False)
    return ModelMatcher(load_matching(bundle, backbone, images), preprocessing, where, channels_last=False)
