"""The supernet: every edge of every cell carries all operations of the space, mixed by weights that a search moves.

Mixed edges: DARTS, arXiv:1806.09055. Sampled paths: Dong and Yang, "Searching for A Robust Neural Architecture in Four
GPU Hours" (GDAS), CVPR 2019, arXiv:1910.04465. Partial channels: Xu et al., "PC-DARTS: Partial Channel Connections for
Memory-Efficient Architecture Search", ICLR 2020, arXiv:1907.05737. Auxiliary skip: Chu et al., "DARTS-: Robustly
Stepping out of Performance Collapse Without Indicators", ICLR 2021, arXiv:2009.01027.

The weights are arguments, not parameters: softmax, sigmoid, sampling, noise and weights of whole edges are all made
outside, and gradients flow back to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....errors import InputError
from .body import CellInputs, EmbeddingHead, build_stem
from .operations import build_operation
from .space import CellPlan, SearchSpace

__all__ = ["MixedEdge", "Supernet"]


class MixedEdge(nn.Module):
    """Features [N, C, H, W] -> the weighted sum of all operations, [N, C, ceil(H/stride), ceil(W/stride)].

    With `share` above 1, the operations see the first C / share channels; the others pass by, with a maximum over 2 x 2
    where the edge halves, and all are shuffled, so that the next edge works on others.
    """

    def __init__(self, operations: Sequence[str], channels: int, stride: int, *, share: int, auxiliary: bool) -> None:
        super().__init__()
        self.share, self.mixed = share, channels // share
        self.operations = nn.ModuleList(build_operation(each, self.mixed, stride, affine=False) for each in operations)
        self._idle = [operation == "none" for operation in operations]
        self.passing = nn.Identity() if stride == 1 else nn.MaxPool2d(2, ceil_mode=True)
        self.auxiliary = build_operation("skip", channels, stride, affine=False) if auxiliary else None

    def forward(self, x: Tensor, weights: Tensor, runs: Sequence[bool], auxiliary: float) -> Tensor | None:
        """The sum, or None where it is zero because nothing but `none` has a weight.

        Args:
            x: the input of the edge.
            weights: [operations], of this edge.
            runs: for each operation whether its weight differs from 0.
            auxiliary: factor of the auxiliary skip.
        """
        if not any(runs):
            return None
        part = x[:, : self.mixed] if self.share > 1 else x
        terms = [
            weight * operation(part)
            for weight, operation, active, idle in zip(weights, self.operations, runs, self._idle, strict=True)
            if active and not idle
        ]
        total = sum(terms[1:], terms[0]) if terms else None
        if self.share > 1:
            total = self._joined(x, total)
        if self.auxiliary is not None and auxiliary:
            skipped = auxiliary * self.auxiliary(x)
            total = skipped if total is None else total + skipped
        return total

    def _joined(self, x: Tensor, mixed: Tensor | None) -> Tensor:
        passed: Tensor = self.passing(x[:, self.mixed :])
        if mixed is None:
            mixed = passed.new_zeros(len(passed), self.mixed, *passed.shape[2:])
        joined = torch.cat([mixed.to(passed.dtype), passed], dim=1)
        images, channels, height, width = joined.shape
        groups = joined.view(images, self.share, channels // self.share, height, width)
        return groups.transpose(1, 2).reshape(images, channels, height, width)


class _MixedCell(nn.Module):
    """A cell whose edges are mixed; its output joins all nodes: [N, nodes * C, H, W]."""

    def __init__(self, space: SearchSpace, plan: CellPlan, *, share: int, auxiliary: bool) -> None:
        super().__init__()
        self.inputs = CellInputs(plan, affine=False)
        self.node_edges, self.reduces, self.channels = space.node_edges, plan.reduces, plan.channels
        self.edges = nn.ModuleList(
            MixedEdge(
                space.operations,
                plan.channels,
                2 if plan.reduces and state < 2 else 1,
                share=share,
                auxiliary=auxiliary,
            )
            for edges in space.node_edges
            for state in range(len(edges))
        )

    def forward(
        self, before_last: Tensor, last: Tensor, weights: Tensor, runs: Sequence[Sequence[bool]], auxiliary: float
    ) -> Tensor:
        states = self.inputs(before_last, last)
        for edges in self.node_edges:
            terms = [
                self.edges[edge](state, weights[edge], runs[edge], auxiliary)
                for edge, state in zip(edges, states, strict=True)
            ]
            states.append(self._sum([term for term in terms if term is not None], states[1]))
        return torch.cat(states[2:], dim=1)

    def _sum(self, terms: list[Tensor], like: Tensor) -> Tensor:
        if terms:
            return sum(terms[1:], terms[0])
        return torch.zeros_like(like[:, :, ::2, ::2] if self.reduces else like)


class Supernet(nn.Module):
    """Images and the weights of the edges -> embeddings: every network of a space at once.

    An operation of weight exactly 0 is not computed and gets no gradient, so a sampled path costs about as much as one
    network, and weights of 1 and 0 give the network of a genotype with the supernet's own weights. An edge all of whose
    weights are 0 is left out.

    `cells` is a ModuleList, whose members `finetune.network.checkpointing` can checkpoint one by one.
    """

    def __init__(self, space: SearchSpace, *, share: int = 1, auxiliary_skip: bool = False) -> None:
        """Build it with fresh weights, drawn from torch's global generator.

        Args:
            space: what it holds.
            share: operations see 1 / share of the channels; 1: all (DARTS), 4: as PC-DARTS.
            auxiliary_skip: every edge gets one more skip, which the forward pass scales.

        Raises:
            InputError: `share` does not divide the channels, or leaves fewer than 2.
        """
        super().__init__()
        if share < 1 or space.channels % share or space.channels // share < 2:
            raise InputError(
                f"partial channels: 1/{share} of {space.channels} channels is not a whole number from 2 on; "
                f"use channels of a multiple of {share}, from {2 * share} on"
            )
        self.space = space
        self.stem = build_stem(space.stem, space.channels)
        self.cells = nn.ModuleList(
            _MixedCell(space, plan, share=share, auxiliary=auxiliary_skip) for plan in space.plans
        )
        self.head = EmbeddingHead(space.nodes * space.plans[-1].channels, space.embedding_size)

    def forward(self, images: Tensor, normal: Tensor, reduce: Tensor, auxiliary: float = 0.0) -> Tensor:
        """Embeddings [N, embedding_size].

        Args:
            images: float [N, 3, H, W].
            normal: weights of the operations of each edge of the normal cells, float [edges, operations].
            reduce: those of the reduction cells.
            auxiliary: factor of the auxiliary skip, where there is one.

        Raises:
            InputError: weights of another shape, or images too low for `part`.
        """
        for name, weights in (("normal", normal), ("reduce", reduce)):
            if tuple(weights.shape) != (self.space.edges, len(self.space.operations)):
                raise InputError(
                    f"weights of the {name} cell: expected [{self.space.edges}, {len(self.space.operations)}], one row "
                    f"per edge and one column per operation, got {list(weights.shape)}"
                )
        runs = {False: normal.detach().ne(0).tolist(), True: reduce.detach().ne(0).tolist()}
        before_last = last = self.stem(images)
        for cell in self.cells:
            weights = reduce if cell.reduces else normal
            out = cell(before_last, last, weights, runs[bool(cell.reduces)], auxiliary)
            before_last, last = last, out
        embedding: Tensor = self.head(last)
        return embedding
