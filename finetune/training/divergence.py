"""What was not finite in a step that was skipped, in words: which losses, and the gradients of which parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["describe_divergence"]

_NAMED = 3


def describe_divergence(
    named: Iterable[tuple[str, nn.Parameter]], shards: Sequence[Tensor | None], losses: Tensor, kinds: Sequence[str]
) -> str:
    """Name what was not finite, such as "the gradient of 'scale' was not finite, that of 12 other parameters was".

    Args:
        named: parameters of the learner with their gradients, by name.
        shards: gradients of this rank's PartialFC shards; None where one has none.
        losses: float32 [H], the losses of the step.
        kinds: the kind of each loss.
    """
    finite = {_plain(name): bool(p.grad.isfinite().all()) for name, p in named if p.grad is not None}
    bad = [name for name, is_finite in finite.items() if not is_finite]
    bad += [f"PartialFC shard {i}" for i, grad in enumerate(shards) if grad is not None and not _is_finite(grad)]
    lost = [kind for kind, value in zip(kinds, losses.tolist(), strict=True) if value - value != 0]
    loss = f"the loss {', '.join(lost)} was not finite; " if lost else ""
    if not bad:
        return f"{loss}each gradient was finite, but not their common norm"
    names = ", ".join(repr(name) for name in bad[:_NAMED]) + (f" and {len(bad) - _NAMED} more" if bad[_NAMED:] else "")
    rest = len(finite) - sum(not is_finite for is_finite in finite.values())
    return f"{loss}the gradient of {names} was not finite" + (f", that of {rest} other parameters was" if rest else "")


def _plain(name: str) -> str:
    """The name as `model.freeze` takes it, for a parameter of the backbone."""
    return name.removeprefix("backbone.")


def _is_finite(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient).all())
