"""Run any model on NumPy arrays: one interface over ONNX Runtime and torch, so that they can be compared.

Importing this module loads neither torch nor ONNX Runtime. Triton has a runner of the same interface in `triton.py`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, PlatformError
from ..records.record import ConversionRecord, TensorSpec, record_of
from .session_model import session_model

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from ..files.model_file import ModelFile

__all__ = [
    "ALL",
    "TORCH_REFUSALS",
    "OnnxRunner",
    "Runner",
    "TorchRunner",
    "batched_inputs",
    "batches_of",
    "run_in_batches",
]

ALL = sys.maxsize
"""As a size of batches: all images in one run, where the model takes any number."""
TORCH_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)
"""What a torch module raises on inputs that it cannot take: kernels, layers that check sizes, arithmetic on sizes,
arguments that do not fit, and the guards of an exported program, each another type.
"""
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Runner(Protocol):
    """A model that takes and returns NumPy arrays in graph order."""

    @property
    def name(self) -> str:
        """How tables call this model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""

    @property
    def batch(self) -> int | None:
        """The only batch the model takes; None when it takes any."""

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch."""


class OnnxRunner:
    """An ONNX model in ONNX Runtime, on `device`: cpu, cuda or cuda:N.

    A file is read once, here, and ONNX Runtime gets its bytes; only a model with external data it opens itself.
    By default ONNX Runtime may quantise the inputs of a MatMul whose weights are quantised (errors of 1 %), which no
    node of the file asks for; `exact` forbids it. On the CPU it has no bfloat16 kernels: there a bfloat16 model runs in
    float32 with every value rounded (`half_emulation`), and takes and returns float32.
    """

    oracle = "ONNX Runtime"
    """Who computes the outputs."""

    def __init__(
        self,
        model: str | Path | bytes | onnx.ModelProto | ModelFile,
        device: str = "cpu",
        threads: int | None = None,
        *,
        name: str | None = None,
        exact: bool = False,
    ) -> None:
        import onnxruntime as ort

        from ..files.model_file import ModelFile
        from .half_emulation import emulate_half

        options = ort.SessionOptions()
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # 1: float32 arithmetic
        options.log_severity_level = 4  # what fails is raised, and needs no second report on the terminal
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        file = given = ModelFile.of(model)
        if device == "cpu" and _needs_bfloat16(file):
            file = ModelFile.in_memory(emulate_half(file.proto(), float32_inputs=True), file.source)
        self.file = given
        self.device, self.threads = device, threads
        self.name = name or (file.name if file.is_named else "onnx")
        self._given = session_model(file, options)
        providers = _providers(device)
        try:
            self.session = ort.InferenceSession(self._given.content, options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen exception types without a common base
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.name}: ONNX Runtime cannot load it ({reason}); run `rtool inspect`") from error
        file.check_unchanged()
        if device != "cpu" and _CUDA not in self.session.get_providers():  # it would compute on the CPU, unasked
            raise PlatformError(
                f"{self.name}: ONNX Runtime cannot use {device} here; its CUDA provider needs a GPU, onnxruntime-gpu, "
                "and the CUDA and cuDNN that it was built for"
            )
        self.inputs = tuple(_spec(value, self.name) for value in self.session.get_inputs())
        self.outputs = tuple(_spec(value, self.name) for value in self.session.get_outputs())
        self.batch = _fixed_batch(self.inputs)

    @cached_property
    def unread(self) -> frozenset[str]:
        """Names of inputs that no node reads, so that any numbers may stand for them."""
        return frozenset(spec.name for spec in self.inputs) - _read_names(self.file.outline.graph)

    @cached_property
    def rounding(self) -> float | None:
        """How far two correct runs of the model may differ, see `half_bound`; None for one without 16-bit values."""
        from .half_rounding import half_bound

        return half_bound(self.file.outline)

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch.

        Raises:
            InputError: the number, type or shape of the arrays is not what the model takes.
        """
        _check_arity(self, arrays)
        feed = {spec.name: np.ascontiguousarray(array) for spec, array in zip(self.inputs, arrays, strict=True)}
        try:
            return tuple(self.session.run(None, feed))
        except Exception as error:  # see above
            reason = " ".join(str(error).split())  # the lines after the first say what was expected
            raise InputError(f"{self.name}: ONNX Runtime refused the input ({reason})") from error


class TorchRunner:
    """A torch module in eval mode on one device; `run` never tracks gradients.

    The caller's module keeps its mode and device: where they differ, a copy runs that shares the tensors it can.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        inputs: Sequence[TensorSpec] = (),
        outputs: Sequence[TensorSpec] = (),
        device: str = "cpu",
        name: str = "torch",
        batch: int | None = None,
    ) -> None:
        from .eval_mode import evaluation_twin

        record = record_of(module)
        self.name = name
        try:
            self.module = evaluation_twin(module, device)
        except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
            reason = str(error).strip().splitlines()[0]
            raise PlatformError(f"{name}: torch cannot use device '{device}' here ({reason})") from error
        self.device = device
        self.unread = _unread_arguments(module, record)
        """Names of inputs that nothing in the module reads."""
        self.inputs = tuple(inputs) or (record.inputs if record is not None else ())
        self.outputs = tuple(outputs) or (record.outputs if record is not None else ())
        self.batch = batch

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch.

        Raises:
            InputError: the number of arrays is not what the model takes, the module cannot run on them, or it returns
                something else than tensors of NumPy's types.
        """
        import torch
        from torch import fx

        if self.inputs:
            _check_arity(self, arrays)
        tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in arrays]
        # Called as `module(...)`, a converted module that raises prints its generated code on the terminal.
        call = self.module.forward if isinstance(self.module, fx.GraphModule) else self.module
        try:
            with torch.inference_mode():
                result = call(*tensors)
        except TORCH_REFUSALS as error:
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(f"{self.name}: torch refused inputs of shape {shapes} ({reason})") from error
        results = result if isinstance(result, tuple | list) else (result,)
        others = {type(one).__name__ for one in results if not isinstance(one, torch.Tensor)}
        others |= {str(one.dtype) for one in results if isinstance(one, torch.Tensor) and one.dtype == torch.bfloat16}
        if others:
            raise InputError(f"{self.name}: returns {', '.join(sorted(others))}, expected tensors of NumPy's types")
        return tuple(tensor.detach().cpu().numpy() for tensor in results)


def run_in_batches(
    runner: Runner, arrays: NDArray[Any] | Sequence[NDArray[Any]], batch: int
) -> tuple[NDArray[Any], ...]:
    """All rows of `arrays` [N, ...] (one array, or one per input), `batch` (or the model's fixed batch) at a time.

    The tail of a fixed-batch model is padded by repeating the last row, and the padding cut off again. An input
    without a batch axis goes in whole every time; an output without one is returned once.

    Raises:
        InputError: as `Runner.run`, or an output depends on how the images are cut into batches.
    """
    cuts = batches_of(runner, [arrays] if isinstance(arrays, np.ndarray) else list(arrays), batch)
    pieces = [runner.run(*fed) for fed, _ in cuts]
    if len(pieces) == 1 and not runner.batch:
        return pieces[0]
    rows = [count for _, count in cuts]
    outputs = enumerate(zip(*pieces, strict=True))
    return tuple(_joined(f"{runner.name}: output {index}", parts, rows, runner.batch) for index, parts in outputs)


def batches_of(runner: Runner, arrays: Sequence[NDArray[Any]], batch: int) -> list[tuple[Sequence[NDArray[Any]], int]]:
    """What `run_in_batches` feeds in each run, and how many of the rows are not padding."""
    batched = batched_inputs(runner, arrays)
    count = next((len(array) for array, cut in zip(arrays, batched, strict=True) if cut), None)
    size = runner.batch or batch
    if count is None or (count <= size and not runner.batch):
        return [(arrays, count or 0)]
    return [
        (
            [
                _cut(array, start, size, runner.batch) if cut else array
                for array, cut in zip(arrays, batched, strict=True)
            ],
            min(size, count - start),
        )
        for start in range(0, count, size)
    ]


def batched_inputs(runner: Runner, arrays: Sequence[NDArray[Any]]) -> list[bool]:
    """Which arrays have a row per image: as many as the first, and no fixed size of their own."""
    if runner.inputs:
        _check_arity(runner, arrays)
    count = next((len(array) for array in arrays if array.ndim), None)
    firsts = [spec.shape[0] if spec.shape else None for spec in runner.inputs] or [None] * len(arrays)
    return [
        array.ndim > 0 and len(array) == count and (not isinstance(first, int) or first == firsts[0])
        for array, first in zip(arrays, firsts, strict=True)
    ]


def _cut(array: NDArray[Any], start: int, size: int, fixed: int | None) -> NDArray[Any]:
    """Rows from `start`, padded to the batch where it is fixed."""
    rows = array[start : start + size]
    missing = size - len(rows) if fixed else 0
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def _joined(label: str, parts: Sequence[NDArray[Any]], rows: Sequence[int], fixed: int | None) -> NDArray[Any]:
    """One output of several runs, of which `rows` rows each are not padding; several numbers may belong to a row."""
    sent = [fixed or count for count in rows]
    heights = [len(part) if part.ndim else 0 for part in parts]
    if heights != sent and all(np.array_equal(part, parts[0]) for part in parts):
        return parts[0]  # it has no batch axis
    if any(not height or height % fed for height, fed in zip(heights, sent, strict=True)):
        raise InputError(f"{label} has no batch axis and is another one in every batch, so it cannot be compared")
    kept = zip(parts, heights, rows, sent, strict=True)
    return np.concatenate([part[: height // fed * count] for part, height, count, fed in kept])


def _unread_arguments(module: nn.Module, record: ConversionRecord | None) -> frozenset[str]:
    from torch import fx

    if record is None or not isinstance(module, fx.GraphModule):
        return frozenset()
    arguments = [node for node in module.graph.nodes if node.op == "placeholder"]
    return frozenset(spec.name for spec, node in zip(record.inputs, arguments, strict=False) if not node.users)


def _read_names(graph: onnx.GraphProto) -> set[str]:
    """Every name that a node of the graph, or of a graph inside one, reads, and the graph's outputs."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                names |= _read_names(inner)
    return names


def _needs_bfloat16(file: ModelFile) -> bool:
    """Whether the graph stores, takes or returns bfloat16, or computes in it; a Cast there and back is no need."""
    kind = 16  # onnx.TensorProto.BFLOAT16
    graph = file.outline.graph
    if any(tensor.data_type == kind for tensor in graph.initializer):
        return True
    if any(value.type.tensor_type.elem_type == kind for value in (*graph.input, *graph.output)):
        return True
    made = {
        name
        for node in graph.node
        if any((a.name == "to" and a.i == kind) or a.t.data_type == kind for a in node.attribute)
        for name in node.output
    }
    return any(name in made for node in graph.node if node.op_type != "Cast" for name in node.input)


def _spec(value: Any, name: str) -> TensorSpec:
    if value.type.startswith("tensor(") and value.type not in _ORT_TYPES:
        raise InputError(
            f"{name}: '{value.name}' is {value.type}, which ONNX Runtime cannot exchange with NumPy; Cast it inside "
            "the graph, or convert from Python with rtool.converters.onnx_to_torch, which compares nothing"
        )
    return TensorSpec(value.name, _ORT_TYPES.get(value.type, value.type), tuple(value.shape))


def _fixed_batch(inputs: Sequence[TensorSpec]) -> int | None:
    first = inputs[0].shape if inputs else ()
    return first[0] if first and isinstance(first[0], int) else None


def _check_arity(runner: Runner, arrays: Sequence[NDArray[Any]]) -> None:
    if len(arrays) != len(runner.inputs):
        names = ", ".join(spec.name for spec in runner.inputs)
        raise InputError(f"{runner.name}: takes {len(runner.inputs)} inputs ({names}), got {len(arrays)}")


def _providers(device: str) -> list[Any]:
    """Of ONNX Runtime; what its CUDA provider lacks runs on the CPU.

    Raises:
        PlatformError: no such device is known.
    """
    kind, _, index = device.partition(":")
    if device == "cpu":
        return [_CPU]
    if kind != "cuda" or not (index or "0").isdigit():
        raise PlatformError(f"device '{device}': expected cpu, cuda or cuda:N")
    _preload_cuda()
    return [(_CUDA, {"device_id": int(index or 0)}), _CPU]


def _preload_cuda() -> None:
    """Load the CUDA and cuDNN that came with torch or as packages of their own; ONNX Runtime looks nowhere else."""
    import onnxruntime as ort

    with redirect_stdout(io.StringIO()):  # it prints what it did not find
        ort.preload_dlls()
