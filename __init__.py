"""rtool: make a fused ONNX model trainable again, fine-tune it, export it and serve it on Triton.

Every command is one call of the same name here: `rtool.onnx2torch("model.onnx")`, `rtool.export(...)`, ...
"""

from __future__ import annotations

from .lazy import lazy_exports

__version__ = "0.1.0"

_PUBLIC: dict[str, str] = {
    "RtoolError": ".errors",
    "evaluate": ".finetune.evaluation",
    "finetune": ".finetune",
}

__all__ = ["__version__", *sorted(_PUBLIC)]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
