"""How long the stages of a gallery took, and how often the model ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Stages"]


@dataclass
class Stages:
    """Seconds by stage, in their order."""

    report: Callable[[str], object] = lambda _: None
    seconds: dict[str, float] = field(default_factory=dict)
    computed: int = 0
    """Crops that the model embedded; the others were known."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        self.report(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
