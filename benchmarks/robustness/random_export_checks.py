"""What becomes of one random export: converted, compared, trained a little, written back, its batch made dynamic.

The file is judged by the network it came from. Where the module and ONNX Runtime differ by more than the bound, both
are held to the network in float64, which shows whose error it is. A network with Sigmoid or Softmax inside loses digits
that no converter can give back, so what counts in the end is the module in float64 against the network in float64.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ...converters.lowering.conversion import onnx_to_torch
from ...converters.passes.batch import set_batch
from ...converters.records.record import record_of
from ...converters.runtime.parity import measure_parity
from ...converters.runtime.runners import OnnxRunner
from ...converters.weights.writing_back import write_back
from ...errors import RtoolError
from .random_networks import RandomNetwork, draw, export, inputs_of

__all__ = ["BOUND", "Checked", "check"]

BOUND = 1e-5
_BATCHES = (1, 2, 3)
_RATE, _STEPS = 1e-3, 2
Arrays = tuple[NDArray[Any], ...]


@dataclass
class Checked:
    """One file. Each finding is "" where it was not looked at, "ok", or what is wrong."""

    seed: int
    index: int
    exporter: str
    batch: int | None
    network: str
    mixes: bool = False
    status: str = ""
    """not exported, refused, agrees, rounding (of ONNX Runtime or of both), wrong, traceback."""
    detail: str = ""
    error: float = 0.0
    runtime: str = ""
    """What ONNX Runtime says where it cannot run the file; the network in float64 is compared with instead."""
    gradients: str = ""
    written_back: str = ""
    opened: str = ""
    """`--batch dynamic`."""
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """What must not be: empty in a sound run."""


def check(seed: int, index: int) -> Checked:
    """Export number `index` of a seed and try everything with it; nothing is raised."""
    start = time.perf_counter()
    network, how = draw(seed, index)
    found = Checked(seed, index, how.name, how.batch, network.description, network.mixes)
    try:
        model = export(network, how)
        onnx.checker.check_model(model)  # dynamo calls an inner value as an output, where their names meet
    except Exception as error:  # each exporter has its own dozen types
        found.status, found.detail = "not exported", _first_line(error)
        found.seconds = round(time.perf_counter() - start, 2)
        return found
    for step in (_convert_and_compare, _gradients, _write_back, _open_batch):
        try:
            if not step(found, network, model):
                break
        except Exception as error:
            found.status, found.detail = "traceback", f"{step.__name__}: {_where(error)}"
            found.faults.append(f"traceback in {found.detail}")
            break
    found.seconds = round(time.perf_counter() - start, 2)
    return found


def _convert_and_compare(found: Checked, network: RandomNetwork, model: onnx.ModelProto) -> bool:
    try:
        module = onnx_to_torch(model)
    except RtoolError as error:
        found.status, found.detail = "refused", " ".join(str(error).split())[:300]
        found.faults.append(f"refused: {found.detail}")
        return False
    runner = OnnxRunner(model, threads=1, exact=True)
    found.status = "agrees"
    for batch in (found.batch,) if found.batch else _BATCHES:
        inputs = inputs_of(network, batch)
        got = _run(module, inputs)
        try:
            expected = runner.run(*(tensor.numpy() for tensor in inputs))
        except RtoolError as error:  # a fault of its kernels: the file is one that it made a session of
            expected = _run(copy.deepcopy(network).double(), _doubled(inputs))
            found.runtime = " ".join(str(error).split())[:300]
        difference = measure_parity(expected, got).max_rel
        found.error = max(found.error, difference)
        if difference > BOUND:
            _judge(found, network, module, batch, expected, got)
            if found.status == "wrong":
                return False
    return True


def _judge(
    found: Checked, network: RandomNetwork, module: fx.GraphModule, batch: int, expected: Arrays, got: Arrays
) -> None:
    """Whose error a difference is, by the network in float64."""
    inputs = inputs_of(network, batch)
    exact = _run(copy.deepcopy(network).double(), _doubled(inputs))
    ours, theirs = (measure_parity(exact, outputs).max_rel for outputs in (got, expected))
    wide = measure_parity(exact, _run(copy.deepcopy(module).double(), _doubled(inputs))).max_rel
    found.detail = (
        f"batch {batch}: against float64, the module {ours:.1e}, ONNX Runtime {theirs:.1e}, the module in float64 "
        f"{wide:.1e}"
    )
    if wide <= BOUND:
        found.status = "rounding"
    elif theirs > 100 * BOUND and ours > 100 * BOUND:
        found.status = "rounding" if measure_parity(expected, got).max_rel <= BOUND else "wrong"
        found.detail += "; the file is not the network"
    else:
        found.status = "wrong"
    if found.status == "wrong":
        found.faults.append(f"wrong: {found.detail}")


def _gradients(found: Checked, network: RandomNetwork, model: onnx.ModelProto) -> bool:
    inputs = inputs_of(network, found.batch or 2)
    original = _bad_gradients(copy.deepcopy(network), inputs)
    if original:
        found.gradients = f"not finite in the original ({original[0]})"
        return True
    bad = _bad_gradients(onnx_to_torch(model), inputs)
    found.gradients = f"not finite: {', '.join(bad[:3])}" if bad else "ok"
    if bad:
        found.faults.append(f"gradients {found.gradients}")
    return True


def _bad_gradients(module: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Parameters whose gradient is not finite."""
    _loss(_outputs(module, inputs)).backward()  # type: ignore[no-untyped-call]
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    return [name for name, grad in grads.items() if grad is not None and not bool(grad.isfinite().all())]


def _write_back(found: Checked, network: RandomNetwork, model: onnx.ModelProto) -> bool:
    module = onnx_to_torch(model)
    inputs = inputs_of(network, found.batch or 2, seed=1)
    optimizer = torch.optim.SGD(list(module.parameters()), lr=_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        _loss(_outputs(module, inputs)).backward()  # type: ignore[no-untyped-call]
        for parameter in module.parameters():
            if parameter.grad is not None:  # a step of a known size, and no weight that stays as it was
                parameter.grad.copy_(torch.nan_to_num(parameter.grad).clamp(-10, 10) + parameter.detach().abs().mean())
        optimizer.step()
    try:
        written = write_back(module.eval(), model)
    except RtoolError as error:
        found.written_back = f"refused: {' '.join(str(error).split())[:300]}"
        found.faults.append(f"write-back {found.written_back}")
        return True
    expected = _run(module, inputs)
    difference = float("inf")
    if not found.runtime:
        got = OnnxRunner(written, threads=1, exact=True).run(*(tensor.numpy() for tensor in inputs))
        difference = measure_parity(expected, got).max_rel
    if difference > BOUND:  # what was written is also judged without the rounding of either runtime
        again = _run(onnx_to_torch(written).double(), _doubled(inputs))
        difference = measure_parity(_run(copy.deepcopy(module).double(), _doubled(inputs)), again).max_rel
    found.written_back = "ok" if difference <= BOUND else f"differs by {difference:.1e}"
    if difference > BOUND:
        found.faults.append(f"write-back {found.written_back}")
    return True


def _open_batch(found: Checked, network: RandomNetwork, model: onnx.ModelProto) -> bool:
    if found.runtime:
        return True  # nothing to prove it in
    try:
        opened = set_batch(model, "dynamic")
    except RtoolError as error:
        found.opened = f"refused: {' '.join(str(error).split())[:300]}"
        return True
    if network.mixes:
        found.opened = "opened, though it mixes images"
        found.faults.append(found.opened)
        return True
    inputs = inputs_of(network, 3, seed=2)
    exact = _run(copy.deepcopy(network).double(), _doubled(inputs))
    got = OnnxRunner(opened, threads=1, exact=True).run(*(tensor.numpy() for tensor in inputs))
    difference = measure_parity(exact, got).max_rel
    found.opened = "ok" if difference <= 10 * BOUND else f"differs by {difference:.1e} from the network"
    if difference > 10 * BOUND and found.error <= BOUND and found.status == "agrees":
        found.faults.append(f"--batch dynamic {found.opened}")
    return True


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> Arrays:
    with torch.no_grad():
        return tuple(output.numpy() for output in _outputs(module, inputs))


def _outputs(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    call = module.forward if isinstance(module, fx.GraphModule) else module  # fx prints its code when a call raises
    record = record_of(module)
    if record is not None:
        names = ("images", "extra")
        inputs = [inputs[names.index(spec.name)] for spec in record.inputs]
    result = call(*inputs)
    return result if isinstance(result, tuple) else (result,)


def _loss(outputs: Sequence[Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([(o * torch.randn(o.shape, generator=generator)).sum() for o in outputs]).sum()


def _doubled(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


def _where(error: Exception) -> str:
    """The type, message and innermost place of an exception inside the package."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "converters" in frame.filename]
    place = f" at {frames[-1].filename.rpartition('converters/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{_first_line(error)}{place}"
