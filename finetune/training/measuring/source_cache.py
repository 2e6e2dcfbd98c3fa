"""`evaluation.cache`: the embeddings of the source model, which every run from it measures before its first step.

Those of a model in training are not kept: it is another one at each evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...config.config import FinetuneConfig
from ...embedding.cache import EmbeddingCache, cache_key
from ...embedding.model_digest import digest_of_module
from ...network.networks import Network

__all__ = ["source_cache"]


def source_cache(
    backbone: nn.Module,
    network: Network,
    config: FinetuneConfig,
    device: torch.device,
    report: Callable[[str], object],
) -> EmbeddingCache | None:
    """The kept embeddings of `backbone` as it is now and as this run computes; None without `evaluation.cache`.

    Raises:
        InputError: the folder cannot be written into.
    """
    evaluation, model = config.evaluation, config.model
    if evaluation is None or evaluation.cache is None:
        return None
    computed = f"{config.precision} {model.channels_last} {device.type}"
    digest = digest_of_module(backbone, computed)
    key = cache_key(digest, network.preprocessing, flip=evaluation.flip, output=model.output)
    return EmbeddingCache(evaluation.cache, key, report=report)
