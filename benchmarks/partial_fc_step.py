"""One class layer, stepped a few times in a process of its own so that its peak memory can be read."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..finetune.margin_losses import cosine_logits, margin_logits
from ..finetune.partial_fc import PartialFC

__all__ = ["run"]

_DIMENSION, _BATCH, _STEPS = 512, 128, 3


def run(kind: str, classes: int, rate: float) -> None:
    """Print step time, peak memory and rows touched as one JSON object. `kind`: dense or partial_fc."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = _peak_bytes()
    embeddings, labels = torch.randn(_BATCH, _DIMENSION), torch.randint(0, classes, (_BATCH,))
    step, rows = _dense(classes) if kind == "dense" else _partial(classes, rate)
    times = []
    for _ in range(_STEPS):
        started = time.process_time()
        step(embeddings.clone().requires_grad_(), labels)
        times.append(time.process_time() - started)
    print(  # noqa: T201
        json.dumps(
            {
                "kind": kind,
                "identities": classes,
                "rate": rate,
                "rows_touched": rows(),
                "processor_seconds_a_step": round(median(times), 3),
                "peak_gigabytes": round((_peak_bytes() - before) / 1e9, 2),
            }
        )
    )


def _dense(classes: int) -> tuple[Callable[[Tensor, Tensor], None], Callable[[], int]]:
    """A parameter, autograd and torch's SGD."""
    weight = nn.Parameter(torch.empty(classes, _DIMENSION).normal_(0, 0.01))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step(embeddings: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(margin_logits(cosine_logits(embeddings, weight), labels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, lambda: classes


def _partial(classes: int, rate: float) -> tuple[Callable[[Tensor, Tensor], None], Callable[[], int]]:
    head = PartialFC(_DIMENSION, classes, rate=rate)
    touched = [0]

    def step(embeddings: Tensor, labels: Tensor) -> None:
        head(embeddings, labels).backward()
        touched[0] = classes if head.rows_used is None else len(head.rows_used)
        head.step(0.1, momentum=0.9, weight_decay=5e-4)

    return step, lambda: touched[0]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
