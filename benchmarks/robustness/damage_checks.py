"""One damaged model: converted and run by rtool, and compared with ONNX Runtime or ONNX's reference evaluator.

Each function runs in a process of its own. Two correct runtimes may differ more on a damaged model than on a real one:
a weight of 1e37 overflows in one order of summation and not in another. Such a difference counts as explained only when
ONNX Runtime's own outputs change as much when its inputs change by one unit in the last place, or when values in a run
in float64 exceed the range of float32.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx

from ...converters.bundles.bundle import load_bundle
from ...converters.bundles.onnx_to_bundle import onnx2torch
from ...converters.bundles.reference import load_model
from ...converters.records.record import TensorSpec, require_record
from ...converters.reference.evaluator import reference_evaluator
from ...converters.runtime.parity import Parity, measure_parity
from ...errors import InputError, RtoolError

__all__ = ["Attempt", "Judgement", "attempt", "convert", "judge", "largest_value"]

Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-5
"""The largest relative error that `rtool onnx2torch` allows."""
_NOISE = 16.0
"""A difference of up to so many times ONNX Runtime's own counts as rounding."""
_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Attempt:
    """`status`: refused, converted, absurd (input too large to run), failed (at run time) or traceback."""

    status: str
    detail: str = ""
    inputs: Arrays = field(default_factory=dict)
    outputs: tuple[NDArray[Any], ...] = ()


@dataclass(frozen=True)
class Judgement:
    """`status`: agrees, rounding, differs, or unjudged when no runtime loads the file; `oracle` names the runtime."""

    status: str
    oracle: str
    detail: str = ""
    error: float = 0.0
    noise: float = 0.0


def attempt(path: str) -> Attempt:
    """Open a model, convert it, and run it on seeded inputs."""
    torch.set_num_threads(1)
    try:
        model = load_model(path)
    except RtoolError as refused:
        return Attempt("refused", str(refused))
    except Exception:
        return Attempt("traceback", traceback.format_exc())
    specs = require_record(model.module).inputs if model.record is not None else model.inputs
    shapes = [_sizes(spec) for spec in specs]
    if any(np.prod(shape, dtype=np.float64) > _MOST_ELEMENTS for shape in shapes):
        return Attempt("absurd", f"inputs of shape {shapes}")
    inputs = {spec.name: _array(shape, spec.dtype) for spec, shape in zip(specs, shapes, strict=True)}
    try:
        with torch.inference_mode():
            # Not `module(...)`: torch.fx prints the generated code when that raises.
            results = model.module.forward(*(torch.from_numpy(array) for array in inputs.values()))
    except Exception as error:
        return Attempt("failed", f"{type(error).__name__}: {error}", inputs)
    results = results if isinstance(results, tuple) else (results,)
    return Attempt("converted", "", inputs, tuple(result.numpy() for result in results))


def convert(path: str) -> str:
    """The message with which `onnx2torch` refuses a file, or "" when it wrote a bundle."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            onnx2torch(path, Path(folder) / "out.rtool")
        except RtoolError as refused:
            return f"{type(refused).__name__}: {refused}"
    return ""


def judge(path: str, inputs: Arrays, outputs: Sequence[NDArray[Any]]) -> Judgement:
    """Compare outputs with ONNX Runtime's, or with those of ONNX's reference evaluator where it refuses the file.

    `outputs` is empty when the converted module failed to run; then the runtimes must fail as well.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    is_bundle = not path.endswith(".onnx")
    try:
        content = load_bundle(path).source().proto().SerializeToString() if is_bundle else path
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = dict(inputs)
        for value in session.get_inputs():
            if value.name not in feed:
                feed[value.name] = _array(_sizes(TensorSpec(value.name, "float32", tuple(value.shape))), "float32")
        expected = session.run(None, feed)
    except Exception as refused:
        reason = " ".join(str(refused).split())[:300]
        return _judge_by_reference(path, inputs, outputs, f"ONNX Runtime: {reason}")
    parity = _parity(expected, outputs)
    if parity is None:
        return Judgement("differs", "ONNX Runtime", "no outputs, or other shapes", np.inf)
    if parity.max_rel <= TOLERANCE:
        return Judgement("agrees", "ONNX Runtime", error=parity.max_rel)
    nudged = {
        name: np.nextafter(array, np.where(array > 0, np.inf, -np.inf).astype(array.dtype))
        if array.dtype.kind == "f"
        else array
        for name, array in feed.items()
    }
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    noise = max(_rel(expected, session.run(None, nudged)), _rel(expected, plain.run(None, feed)))
    status = "rounding" if parity.max_rel <= _NOISE * noise else "differs"
    return Judgement(status, "ONNX Runtime", _describe(expected, outputs), parity.max_rel, noise)


def _judge_by_reference(path: str, inputs: Arrays, outputs: Sequence[NDArray[Any]], reason: str) -> Judgement:
    try:
        proto = onnx.load(path) if path.endswith(".onnx") else load_bundle(path).source().proto()
        expected = reference_evaluator(proto).run(None, dict(inputs))
    except Exception as refused:
        text = " ".join(f"{type(refused).__name__}: {refused}".split())[:300]
        return Judgement("unjudged", "none", f"{reason}; reference evaluator: {text}")
    parity = _parity([np.asarray(array) for array in expected], outputs)
    if parity is not None and parity.max_rel <= 10 * TOLERANCE:  # NumPy has yet another order of summation
        return Judgement("agrees", "reference evaluator", reason, parity.max_rel)
    error = np.inf if parity is None else parity.max_rel
    return Judgement("differs", "reference evaluator", reason, error)


def largest_value(path: str, inputs: Arrays) -> float:
    """The largest magnitude of any value in the converted module in a run in float64."""
    module = load_model(path).module.double()
    largest = 0.0

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            nonlocal largest
            result = super().run_node(node)
            # Normalisations square their inputs.
            given = [self.env[argument] for argument in node.all_input_nodes if "norm" in self._kind(node)]
            squared = [value.square() for value in given if isinstance(value, torch.Tensor)]
            for tensor in (result, *squared):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                    largest = max(largest, float(tensor.abs().nan_to_num(nan=np.inf).max()))
            return result

        def _kind(self, node: fx.Node) -> str:
            target = type(self.fetch_attr(str(node.target))) if node.op == "call_module" else node.target
            return str(target).lower()

    assert isinstance(module, fx.GraphModule)
    tensors = [torch.from_numpy(a.astype(np.float64) if a.dtype.kind == "f" else a) for a in inputs.values()]
    with torch.inference_mode():
        Watch(module, garbage_collect_values=False).run(*tensors)
    return largest


def _parity(expected: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> Parity | None:
    """The difference; None when the outputs differ in number or shapes."""
    try:
        return measure_parity(expected, outputs)
    except InputError:
        return None


def _rel(expected: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> float:
    with np.errstate(all="ignore"):
        return measure_parity(expected, outputs).max_rel


def _describe(expected: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> str:
    def sums(arrays: Sequence[NDArray[Any]]) -> str:
        flat = np.concatenate([np.asarray(array, np.float64).reshape(-1) for array in arrays])
        finite = flat[np.isfinite(flat)]
        size = float(np.abs(finite).max()) if finite.size else 0.0
        return f"largest {size:.3g}, {flat.size - finite.size} of {flat.size} not finite"

    return f"expected {sums(expected)}; got {sums(outputs)}"


def _sizes(spec: TensorSpec) -> list[int]:
    """Inputs of two images; any other dynamic dimension is 16."""
    return [dim if isinstance(dim, int) else (2 if axis == 0 else 16) for axis, dim in enumerate(spec.shape)]


def _array(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    if dtype.startswith("float"):
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)
