"""The common uses of a module, applied to a converted one: each gives the module's own outputs, or the reason why not.

Traced, exported and scripted modules run at another batch than the one they were made with. Errors are relative to the
largest output of the module itself; for bfloat16, whose rounding is no fault, the error is one minus the least cosine.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn

from ...converters.runtime.parity import measure_parity

__all__ = ["USES", "USE_BOUNDS", "try_uses"]

Use = Callable[[fx.GraphModule, Tensor, Tensor], float]
"""(module in eval mode, 2 images, 3 images) -> error."""


def try_uses(module: fx.GraphModule, images: Tensor) -> dict[str, float | str]:
    """Use -> its error, or the message of the exception; `images` [N >= 3, ...]. The module stays as it was."""
    found: dict[str, float | str] = {}
    for name, use in USES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[name] = use(copy.deepcopy(module), images[:2], images[:3])
            except Exception as error:  # any exception is a result
                found[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return found


def _trace(module: fx.GraphModule, two: Tensor, three: Tensor) -> float:
    return _error(module, torch.jit.trace(module, two), three)  # type: ignore[no-untyped-call]


def _script(module: fx.GraphModule, _two: Tensor, three: Tensor) -> float:
    return _error(module, torch.jit.script(module), three)


def _export(module: fx.GraphModule, two: Tensor, three: Tensor) -> float:
    program = torch.export.export(module, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return _error(module, program.module(), three)


def _compile(module: fx.GraphModule, two: Tensor, _three: Tensor) -> float:
    torch._dynamo.reset()
    return _error(module, torch.compile(module, fullgraph=True, backend="inductor"), two)


def _deepcopy(module: fx.GraphModule, two: Tensor, _three: Tensor) -> float:
    twin = copy.deepcopy(module)
    error = _error(module, twin, two)
    shared = {p.data_ptr() for p in module.parameters()} & {p.data_ptr() for p in twin.parameters()}
    if shared:
        raise RuntimeError(f"{len(shared)} parameters are shared with the copy")
    return error


def _channels_last(module: fx.GraphModule, _two: Tensor, three: Tensor) -> float:
    twin: nn.Module = copy.deepcopy(module)
    twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        got = twin(three.to(memory_format=torch.channels_last))
        return measure_parity([module(three).numpy()], [got.numpy()]).max_rel


def _bfloat16(module: fx.GraphModule, _two: Tensor, three: Tensor) -> float:
    with torch.no_grad():
        expected = module(three).numpy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(three).float()
    _backward(module, output)
    return 1 - measure_parity([expected], [output.detach().numpy()]).min_cosine


def _distributed(module: fx.GraphModule, two: Tensor, _three: Tensor) -> float:
    """DDP with one gloo process must give the gradients of the module alone."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    alone = copy.deepcopy(module)
    _backward(alone, alone(two))
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            wrapped = nn.parallel.DistributedDataParallel(module)
            _backward(wrapped, wrapped(two))
        finally:
            dist.destroy_process_group()
    pairs = zip(alone.parameters(), module.parameters(), strict=True)
    gradients = [(a.grad.numpy(), b.grad.numpy()) for a, b in pairs if a.grad is not None and b.grad is not None]
    return max(measure_parity([a], [b]).max_rel for a, b in gradients)


def _backward(module: nn.Module, output: Tensor) -> None:
    output.square().mean().backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        if parameter.grad is None or not bool(parameter.grad.isfinite().all()):
            raise RuntimeError(f"{name} got no finite gradient")


def _error(module: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> float:
    with torch.no_grad():
        return measure_parity([module(images).numpy()], [other(images).numpy()]).max_rel


USES: Mapping[str, Use] = {
    "jit.trace": _trace,
    "jit.script": _script,
    "torch.export": _export,
    "torch.compile": _compile,
    "deepcopy": _deepcopy,
    "DDP": _distributed,
    "bf16 autocast": _bfloat16,
    "channels_last": _channels_last,
}
USE_BOUNDS: Mapping[str, float] = dict.fromkeys(USES, 1e-05) | {"bf16 autocast": 1e-2}
"""bfloat16 has 8 significant bits: a cosine of 0.99 separates right from wrong, but measures no more."""
