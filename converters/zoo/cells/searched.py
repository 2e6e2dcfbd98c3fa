"""`SearchedNetwork`: the network of a genotype, with one operation per edge and fresh weights.

It is trained from scratch, as DARTS does (arXiv:1806.09055): a supernet's weights fit the mixture, not the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .body import CellInputs, EmbeddingHead, build_stem
from .genotype import Edge, Genotype, genotype_of_json, read_genotype
from .operations import build_operation
from .space import CellPlan

__all__ = ["SearchedNetwork", "open_genotype"]


class _FoundCell(nn.Module):
    """A cell of a genotype; its output joins all nodes: [N, nodes * C, H, W]."""

    def __init__(self, nodes: Sequence[Sequence[Edge]], plan: CellPlan) -> None:
        super().__init__()
        self.inputs = CellInputs(plan, affine=True)
        self._states = [[state for _, state in edges] for edges in nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                build_operation(operation, plan.channels, 2 if plan.reduces and state < 2 else 1, affine=True)
                for operation, state in edges
            )
            for edges in nodes
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        states = self.inputs(before_last, last)
        for read, node in zip(self._states, self.nodes, strict=True):
            operations = list(node)  # type: ignore[call-overload]
            terms = [operation(states[state]) for operation, state in zip(operations, read, strict=True)]
            states.append(sum(terms[1:], terms[0]))
        return torch.cat(states[2:], dim=1)


class SearchedNetwork(nn.Module):
    """Images [N, 3, H, W] float32 -> embeddings [N, embedding_size], of any sign, not normalised."""

    def __init__(
        self,
        *,
        genotype: str | Mapping[str, Any],
        embedding_size: int = 512,
        cells: int | None = None,
        channels: int | None = None,
    ) -> None:
        """Build it.

        Args:
            genotype: a file genotype.json, or its content.
            embedding_size: numbers per image.
            cells: cells of the network; None: as many as were searched.
            channels: channels of a node before the first reduction; None: as many as were searched.

        Raises:
            InputError: there is no such genotype, or it is not one.
        """
        super().__init__()
        found = open_genotype(genotype)
        space = replace(
            found.space,
            cells=found.space.cells if cells is None else cells,
            channels=found.space.channels if channels is None else channels,
        )
        self.stem = build_stem(space.stem, space.channels)
        self.cells = nn.ModuleList(
            _FoundCell(found.reduce if plan.reduces else found.normal, plan) for plan in space.plans
        )
        self.head = EmbeddingHead(space.nodes * space.plans[-1].channels, embedding_size)

    def feature_map(self, x: Tensor) -> Tensor:
        """The output of the last cell [N, C, H, W], for heads that work on positions."""
        before_last: Tensor = self.stem(x)
        last = before_last
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
        return last

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        embedding: Tensor = self.head(self.feature_map(x))
        return embedding


def open_genotype(genotype: str | Mapping[str, Any]) -> Genotype:
    """The genotype of a file, or of the content of one.

    Raises:
        InputError: there is no such file, or it is not a genotype.
    """
    return read_genotype(genotype) if isinstance(genotype, str) else genotype_of_json(genotype, "genotype")
