"""Alpha: what the search learns, one number per edge and operation and kind of cell; its optimizer and its history.

Alphas are outside of DDP. Every process draws them alike, updates them by the same averaged gradient, and they stay
equal to the last bit; `check_alike` compares their digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import GateError
from ..config.search import SearchConfig
from ..processes.collectives import all_reduce_sum, gather_rows, world_size
from .mixing import operation_shares, shares

__all__ = ["Alphas", "mean_over_ranks"]

_START = 1e-3
"""Standard deviation of the first alphas, as in DARTS."""
_KINDS = ("normal", "reduce")
_PREFIX = "search/"


class Alphas:
    """The alphas of normal and reduction cells: `values`, two float32 [edges, operations] that require gradients.

    With `edge_weights`, they have one column more: the numbers of whole edges, which start at 0.
    """

    def __init__(self, config: SearchConfig, seed: int, device: torch.device) -> None:
        space = config.space()
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(space.edges, len(space.operations), generator=generator) for _ in _KINDS]
        if config.edge_weights:
            drawn = [torch.cat([each, torch.zeros(space.edges, 1)], dim=1) for each in drawn]
        self._config = config
        self.values = [(_START * each).to(device).requires_grad_() for each in drawn]
        self.history: list[NDArray[np.float32]] = []
        """What each epoch ended with: float32 [2 edges, columns], the normal cell's edges first."""
        decay = 0.0 if config.guard == "beta" else config.alpha.weight_decay
        self._optimizer = torch.optim.Adam(
            self.values, lr=config.alpha.lr, betas=config.alpha.betas, weight_decay=decay, foreach=False
        )

    def update(self, gradients: Sequence[Tensor]) -> bool:
        """Make a step of Adam; False, and none, where a gradient is not finite."""
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return False
        for value, gradient in zip(self.values, gradients, strict=True):
            value.grad = gradient.detach().clone()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return True

    def shares(self) -> tuple[Tensor, Tensor]:
        """The weights that alpha gives to the operations of each edge, without gradient: normal and reduction cells."""
        normal, reduce = (shares(value.detach(), self._config) for value in self.values)
        return normal, reduce

    def operation_shares(self) -> tuple[Tensor, Tensor]:
        """As `shares`, without the weights of whole edges."""
        normal, reduce = (operation_shares(value.detach(), self._config) for value in self.values)
        return normal, reduce

    def remember(self) -> None:
        """Add the alphas to the history."""
        self.history.append(np.concatenate([value.detach().cpu().numpy() for value in self.values]))

    def past(self, epoch: int) -> tuple[Tensor, Tensor]:
        """As `shares`, of the alphas that epoch `epoch` ended with, from 0."""
        both = torch.from_numpy(self.history[epoch]).chunk(2)
        normal, reduce = (shares(each, self._config) for each in both)
        return normal, reduce

    @property
    def entropy(self) -> float:
        """Mean over edges of the entropy of the operations' shares, in nats; at most log of their number."""
        both = torch.cat(self.operation_shares()).double()
        share = both / both.sum(dim=1, keepdim=True)
        return float(-(share * share.clamp_min(1e-300).log()).sum(dim=1).mean())

    def digest(self) -> int:
        """63 bits of the SHA-256 of the alphas."""
        content = b"".join(value.detach().cpu().numpy().tobytes() for value in self.values)
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1

    def check_alike(self, device: torch.device) -> None:
        """Compare the alphas of all processes, bit for bit. A collective.

        Raises:
            GateError: they differ.
        """
        digests = gather_rows(torch.tensor([self.digest()], dtype=torch.int64, device=device)).tolist()
        if len(set(digests)) > 1:
            shown = ", ".join(f"{rank}: {digest:016x}" for rank, digest in enumerate(digests))
            raise GateError(
                f"search: the alphas of {len(digests)} processes are no longer equal (digests {shown}), so they search "
                "different cells; use one kind of machine and the same libraries on all, and start from a checkpoint"
            )

    def state(self) -> dict[str, Tensor]:
        """Alphas, the optimizer's moments and the history, by name."""
        tensors: dict[str, Tensor] = {}
        for kind, value in zip(_KINDS, self.values, strict=True):
            tensors[f"{_PREFIX}alpha/{kind}"] = value.detach().cpu().clone()
            for key, moment in self._optimizer.state.get(value, {}).items():
                tensors[f"{_PREFIX}adam/{kind}/{key}"] = torch.as_tensor(moment).detach().cpu().clone()
        if self.history:
            tensors[f"{_PREFIX}history"] = torch.from_numpy(np.stack(self.history))
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors of `state`."""
        for kind, value in zip(_KINDS, self.values, strict=True):
            with torch.no_grad():
                value.copy_(tensors[f"{_PREFIX}alpha/{kind}"])
            start = f"{_PREFIX}adam/{kind}/"
            saved = {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
            state = self._optimizer.state[value]
            state.clear()
            for key, moment in saved.items():
                state[key] = moment.clone() if moment.ndim == 0 else moment.to(value.device, copy=True)
            if not saved:
                del self._optimizer.state[value]
        history = tensors.get(f"{_PREFIX}history")
        self.history = [] if history is None else [each.copy() for each in history.numpy()]


def mean_over_ranks(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all processes, without gradient; one collective for all of them."""
    if world_size() == 1:
        return [gradient.detach() for gradient in gradients]
    flat = torch.cat([gradient.detach().flatten() for gradient in gradients])
    mean = all_reduce_sum(flat) / world_size()
    parts = torch.split_with_sizes(mean, [gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
