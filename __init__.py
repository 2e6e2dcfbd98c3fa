"""rtool: make a fused ONNX model trainable again, fine-tune it, export it and serve it on Triton.

Every command is one call of the same name here: `rtool.onnx2torch("model.onnx")`, `rtool.finetune("cfg.yaml")`,
`rtool.export(...)`, `rtool.deploy(...)`; the three of `rtool bench` are `rtool.parity`, `rtool.latency` and
`rtool.load_test`. Each returns a dataclass and raises an `RtoolError` that says what to do.
"""

from __future__ import annotations

import os

from .lazy import lazy_exports
from .version import __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports to its maker as soon as it is imported

_PUBLIC: dict[str, str] = {
    "RtoolError": ".errors",
    "demo": ".benchmarks",
    "deploy": ".serving",
    "doctor": ".benchmarks",
    "evaluate": ".finetune",
    "export": ".converters",
    "inspect": ".converters",
    "latency": ".benchmarks",
    "load_test": ".benchmarks",
    "onnx2torch": ".converters",
    "parity": ".benchmarks",
    "rollback": ".serving",
    "serve": ".serving",
}

__all__ = ["__version__", "finetune", *sorted(_PUBLIC)]
_load, __dir__ = lazy_exports(__name__, _PUBLIC)


def __getattr__(name: str) -> object:
    """Public names on first use. `finetune` is a room that can be called; the others come from their rooms."""
    if name == "finetune":
        from importlib import import_module

        return import_module(".finetune", __name__)
    return _load(name)
