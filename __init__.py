"""rtool: make a fused ONNX model trainable again, fine-tune it, export it and serve it on Triton.

Every command is one call of the same name: `rtool.onnx2torch("model.onnx")`, `rtool.finetune("cfg.yaml")`,
`rtool.bench.parity(...)` for `rtool bench parity`, `rtool.config.show()` for `rtool config show`; `rtool deploy
--rollback` is `rtool.rollback`. Each returns a dataclass and raises an `RtoolError` that says what to do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .lazy import lazy_exports
from .version import __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports to its maker as soon as it is imported

if TYPE_CHECKING:  # for editors and type checkers; at run time the table below loads a name on first use
    from . import bench, config
    from .benchmarks.machine import doctor
    from .benchmarks.whole_flow.flow import demo
    from .converters.bundles.onnx_to_bundle import onnx2torch
    from .converters.exporting.pipeline import export
    from .converters.inspection.inspecting import inspect
    from .converters.operators.operator_table import ops
    from .errors import RtoolError
    from .fetching import fetch
    from .finetune import finetune
    from .finetune.distilling import distil
    from .finetune.embedding.image_embeddings import embed
    from .finetune.evaluation.evaluation import evaluate
    from .finetune.searching import search
    from .serving.gallery.adaptation import adapt
    from .serving.gallery.galleries import gallery
    from .serving.publishing.publishing import deploy
    from .serving.publishing.rolling_back import rollback
    from .serving.service.foreground import serve

_PUBLIC: dict[str, str] = {
    "RtoolError": ".errors",
    "adapt": ".serving.gallery.adaptation",
    "demo": ".benchmarks",
    "deploy": ".serving",
    "distil": ".finetune",
    "doctor": ".benchmarks",
    "embed": ".finetune",
    "evaluate": ".finetune",
    "export": ".converters",
    "fetch": ".fetching",
    "gallery": ".serving.gallery.galleries",
    "inspect": ".converters",
    "onnx2torch": ".converters",
    "ops": ".converters",
    "rollback": ".serving",
    "search": ".finetune.searching",
    "serve": ".serving",
}
_MODULES = ("bench", "config", "finetune")
"""Command groups, whose functions are their commands, and the one room that can be called."""

__all__ = [
    "RtoolError",
    "__version__",
    "adapt",
    "bench",
    "config",
    "demo",
    "deploy",
    "distil",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "fetch",
    "finetune",
    "gallery",
    "inspect",
    "onnx2torch",
    "ops",
    "rollback",
    "search",
    "serve",
]
_load, _ = lazy_exports(__name__, _PUBLIC)


def __getattr__(name: str) -> object:
    """Public names on first use, so that `import rtool` loads neither torch nor onnx nor numpy."""
    if name in _MODULES:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    return _load(name)


def __dir__() -> list[str]:
    return list(__all__)
