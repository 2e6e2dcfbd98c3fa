"""rtool: make a fused ONNX model trainable again, fine-tune it, export it and serve it on Triton.

Every command is one call of the same name: `rtool.onnx2torch("model.onnx")`, `rtool.finetune("cfg.yaml")`,
`rtool.bench.parity(...)` for `rtool bench parity`, `rtool.config.show()` for `rtool config show`; `rtool deploy
--rollback` is `rtool.rollback`. Each returns a dataclass and raises an `RtoolError` that says what to do.
"""

from __future__ import annotations

from .lazy import lazy_exports
from .version import __version__

_PUBLIC: dict[str, str] = {
    "RtoolError": ".errors",
    "demo": ".benchmarks",
    "deploy": ".serving",
    "doctor": ".benchmarks",
    "evaluate": ".finetune",
    "export": ".converters",
    "inspect": ".converters",
    "onnx2torch": ".converters",
    "ops": ".converters",
    "rollback": ".serving",
    "serve": ".serving",
}
_MODULES = ("bench", "config", "finetune")
"""Command groups, whose functions are their commands, and the one room that can be called."""

__all__ = ["__version__", *sorted([*_MODULES, *_PUBLIC])]
_load, _ = lazy_exports(__name__, _PUBLIC)


def __getattr__(name: str) -> object:
    """Public names on first use, so that `import rtool` loads neither torch nor onnx nor numpy."""
    if name in _MODULES:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    return _load(name)


def __dir__() -> list[str]:
    return list(__all__)
