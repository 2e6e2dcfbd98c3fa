"""The supernet of a search as the backbone of a run: the weights of its edges are set from outside, not learned by SGD.

In training it computes with the weights of the step, in evaluation with those that alpha alone gives. A checkpoint
holds it in the place of a network, under an architecture of its own, for resuming; it is nothing to export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...converters.bundles.bundle_info import FORMAT, INFO, SUPERNET, WEIGHTS
from ...converters.files.folders import replace_folder
from ...converters.preprocessing.decision import decide_preprocessing
from ...converters.preprocessing.evidence import evidence_of_inputs
from ...converters.records.preprocessing import Preprocessing
from ...converters.records.provenance import ChainLink, to_json
from ...converters.zoo.cells.latency_table import LatencyTable, read_latency_table
from ...converters.zoo.cells.supernet import Supernet
from ...converters.zoo.registry import architecture_preprocessing
from ...errors import ConfigError, InputError
from ..config.config import FinetuneConfig, ModelConfig
from ..config.search import SearchConfig
from .networks import Network, load_network

__all__ = ["EdgeWeights", "SearchBackbone", "open_latency_table", "open_network"]

_DEAREST = ("sep3", "part", "dil3", "max3", "avg3", "skip", "noise", "none")
"""Operations by the memory that they take in training, from the most on."""

_SHARE = 4
"""Method partial mixes one channel in so many (PC-DARTS)."""


@dataclass(frozen=True)
class EdgeWeights:
    """The weights of one pass: float [edges, operations] of each kind of cell, and the factor of auxiliary skips."""

    normal: Tensor
    reduce: Tensor
    auxiliary: float = 0.0


class SearchBackbone(nn.Module):
    """Images float [N, 3, H, W] -> embeddings [N, D], by the supernet with the weights that are set."""

    def __init__(self, search: SearchConfig) -> None:
        super().__init__()
        space = search.space()
        self.supernet = Supernet(
            space,
            share=_SHARE if search.method == "partial" else 1,
            auxiliary_skip=search.guard == "auxiliary_skip",
        )
        count = len(space.operations)
        even = torch.full((space.edges, count), 1 / count)
        self.settled = EdgeWeights(even, even, 1.0)
        """The weights in evaluation; until alpha sets them, those of a mixture in which everything takes part."""
        first = even.clone()
        if search.method == "sampled":
            dearest = next(each for each in _DEAREST if each in space.operations)
            first = torch.zeros_like(even)
            first[:, space.operations.index(dearest)] = 1
        first.requires_grad_()
        self.of_step = EdgeWeights(first, first, 1.0)
        """The weights in training; until alpha sets them, those of the step of alpha that needs the most memory."""

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings."""
        used = self.of_step if self.training else self.settled
        normal, reduce = used.normal.to(images.device), used.reduce.to(images.device)
        embeddings: Tensor = self.supernet(images, normal, reduce, used.auxiliary)
        return embeddings

    @contextmanager
    def using(self, weights: EdgeWeights) -> Iterator[None]:
        """Compute with `weights`, in both modes, within the context."""
        before = self.of_step, self.settled
        self.of_step = self.settled = weights
        try:
            yield
        finally:
            self.of_step, self.settled = before


def open_network(config: FinetuneConfig, checkpoint: Path | None = None) -> Network:
    """The network that a run trains: the supernet of its search, else what `model` names, or that of a checkpoint.

    Raises:
        ConfigError, InputError: as `load_network`; images too low for the operation part, a latency table of another
            space, or a checkpoint of another search.
    """
    if config.search is None:
        return load_network(config.model, checkpoint)
    return _search_network(config.model, config.search, checkpoint)


def open_latency_table(search: SearchConfig, preprocessing: Preprocessing) -> LatencyTable | None:
    """The table that `search.cost` names, for the operations of the search; None where it names none.

    Raises:
        ConfigError: there is no such table, or it was measured for another space or size of image.
    """
    if search.cost.table is None:
        return None
    space = search.space()
    try:
        table = read_latency_table(search.cost.table)
        table.check_fits(space, preprocessing.height, preprocessing.width)
        return table.of_operations(space)
    except InputError as error:
        raise ConfigError(f"search.cost.table: {error}") from error


def _search_network(model: ModelConfig, search: SearchConfig, checkpoint: Path | None) -> Network:
    """The supernet with fresh weights of torch's global generator, or with those of a checkpoint."""
    preprocessing, origin = _preprocessing(model)
    try:
        search.space().check_height(preprocessing.height)
    except InputError as error:
        raise ConfigError(f"model.size: {error}") from error
    open_latency_table(search, preprocessing)  # a wrong one is refused before anything is trained
    module = SearchBackbone(search)
    if checkpoint is not None and search.method != "random":
        _load(module, checkpoint)
    architecture = {"name": SUPERNET, "options": search.space_fields()}

    def save(path: Path, saved: nn.Module, trained: ChainLink | None = None) -> None:
        info: dict[str, Any] = {
            "format": FORMAT,
            "architecture": architecture,
            "preprocessing": preprocessing.to_dict(),
            "provenance": {"trained_from": SUPERNET, "chain": to_json(() if trained is None else (trained,))},
        }
        with replace_folder(path) as folder:
            tensors = {name: value.detach().cpu().contiguous() for name, value in saved.state_dict().items()}
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
            (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")

    return Network(SUPERNET, module, preprocessing, search.embedding_size, save, None, origin)


def _preprocessing(model: ModelConfig) -> tuple[Preprocessing, str]:
    """How images are prepared, and where that comes from."""
    usual = architecture_preprocessing(model.reference, input_size=model.size)
    evidence = evidence_of_inputs(model.reference, ()).stating(usual, "of the architecture")
    decision = decide_preprocessing(evidence, model.preprocessing, model.size)
    return decision.preprocessing, decision.reason


def _load(module: SearchBackbone, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{checkpoint / WEIGHTS}: not the supernet of this search ({str(error).splitlines()[0]}); put the section "
            "search back as it was, or start a new run"
        ) from error
