"""What was not finite in steps that were skipped, in words: which losses, and the gradients of which parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import GateError
from ..runs.checkpoints import Progress

__all__ = ["describe_divergence", "divergence_error"]

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


def divergence_error(checkpoints: Path, progress: Progress, not_finite: str, skipped: int) -> GateError:
    """The error of a run that skipped too many steps in a row.

    Args:
        checkpoints: The run's `checkpoints/`, with `last` on the one to continue from.
        progress: How far the run has come.
        not_finite: What was not finite in the last step, as `describe_divergence` says.
        skipped: Steps in a row that had no finite gradient.
    """
    last = checkpoints / "last.rtool"
    kept = f"{last.resolve().name}, from before, is kept to continue from" if last.exists() else "start a new run"
    return GateError(
        f"{skipped} steps in a row had no finite gradient; in step {progress.step}, {not_finite}; lower optimizer.lr, "
        f"set optimizer.clip, use precision=bf16, or keep a parameter as it is with model.freeze; {kept}"
    )


def _plain(name: str) -> str:
    """The name as `model.freeze` takes it, for a parameter of the backbone."""
    return name.removeprefix("backbone.")


def _is_finite(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient).all())
