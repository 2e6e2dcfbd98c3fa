"""Room: serving. Writes, checks and publishes Triton model repositories, runs a Triton on them, calls its models."""

from __future__ import annotations

from ..lazy import lazy_exports

_PUBLIC: dict[str, str] = {
    "AsyncClient": ".client.asynchronous",
    "BackendFailedError": "..converters.runtime.calling.failures",
    "BadRequestError": "..converters.runtime.calling.failures",
    "CheckReport": ".publishing.checking",
    "Client": ".client.client",
    "ControlDeniedError": "..converters.runtime.calling.failures",
    "DeployResult": ".repository.deployed",
    "Problem": ".repository.validation",
    "RequestTimeoutError": "..converters.runtime.calling.failures",
    "ServeResult": ".service.foreground",
    "ServerOverloadedError": "..converters.runtime.calling.failures",
    "ServerStoppingError": "..converters.runtime.calling.failures",
    "ServerUnreachableError": "..converters.runtime.calling.failures",
    "ServingError": "..converters.runtime.calling.failures",
    "ServingSettings": ".repository.serving_settings",
    "TritonClient": ".client.client",
    "TritonServer": ".server.server",
    "UnknownModelError": "..converters.runtime.calling.failures",
    "check": ".publishing.checking",
    "deploy": ".publishing.publishing",
    "deploy_packer": ".publishing.packing",
    "find_triton": ".server.embedded",
    "rollback": ".publishing.rolling_back",
    "serve": ".service.foreground",
    "triton_status": ".server.embedded",
    "validate_model": ".repository.validation",
    "validate_repository": ".repository.validation",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
