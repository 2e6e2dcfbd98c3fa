"""Room: serving. Triton model repositories written, checked and published; a Triton to serve them; clients."""

from __future__ import annotations

from ..lazy import lazy_exports

_PUBLIC: dict[str, str] = {
    "DeployResult": ".deployed",
    "Problem": ".validation",
    "ServeResult": ".foreground",
    "ServingSettings": ".model_config",
    "TritonClient": ".client",
    "TritonRunner": ".client",
    "TritonServer": ".server",
    "deploy": ".publishing",
    "deploy_packer": ".packing",
    "find_triton": ".embedded",
    "rollback": ".rolling_back",
    "serve": ".foreground",
    "triton_status": ".embedded",
    "validate_model": ".validation",
    "validate_repository": ".validation",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
