"""Runs an ONNX file that ONNX Runtime refuses in onnx's reference evaluator, where the file is valid ONNX.

ONNX Runtime lags behind the standard (new IR versions and element types) and some of its kernels do not take what
the standard allows (ragged blocks of quantised weights). The evaluator is slow and follows the standard by the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..records.record import TensorSpec
from .runners import OnnxRunner, Runner

if TYPE_CHECKING:
    import onnx

    from ..files.model_file import ModelFile

__all__ = ["ReferenceRunner", "WillingRunner", "open_onnx", "run_onnx"]

REFERENCE = "onnx.reference"
R = TypeVar("R", bound=Runner)
T = TypeVar("T")


class ReferenceRunner:
    """An ONNX model in onnx's reference evaluator, in the dtypes of the file.

    Raises:
        InputError: the model is not valid ONNX, or the evaluator lacks one of its operators.
    """

    oracle = REFERENCE

    def __init__(self, model: str | Path | bytes | onnx.ModelProto | ModelFile, *, name: str | None = None) -> None:
        import onnx

        from ..files.model_file import ModelFile
        from ..reference.evaluator import reference_evaluator

        self.file = ModelFile.of(model)
        self.name = name or (self.file.name if self.file.is_named else "onnx")
        proto = self.file.proto()
        try:
            onnx.checker.check_model(proto)
            self._evaluator = reference_evaluator(proto)
        except Exception as error:  # checker and evaluator raise any type
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.name}: {REFERENCE} cannot load it ({reason}); run `rtool inspect`") from error
        weights = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = tuple(_spec(value) for value in proto.graph.input if value.name not in weights)
        self.outputs = tuple(_spec(value) for value in proto.graph.output)
        first = self.inputs[0].shape if self.inputs else ()
        self.batch = first[0] if first and isinstance(first[0], int) else None

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch.

        Raises:
            InputError: the arrays are not what the model takes.
        """
        if len(arrays) != len(self.inputs):
            raise InputError(f"{self.name}: takes {len(self.inputs)} inputs, got {len(arrays)}")
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        try:
            with np.errstate(all="ignore"):
                return tuple(np.asarray(output) for output in self._evaluator.run(None, feed))
        except Exception as error:  # see above
            raise InputError(f"{self.name}: {REFERENCE} refused the input ({error})") from error


def open_onnx(
    model: str | Path | bytes | onnx.ModelProto | ModelFile,
    device: str = "cpu",
    threads: int | None = None,
    *,
    name: str | None = None,
    exact: bool = False,
) -> OnnxRunner | ReferenceRunner:
    """`model` in ONNX Runtime; on the CPU in the reference evaluator, where it is valid and ONNX Runtime refuses it.

    Raises:
        InputError: neither can load it; the cause is ONNX Runtime's.
    """
    from ..files.model_file import ModelFile

    file = ModelFile.of(model)
    try:
        return OnnxRunner(file, device, threads, name=name, exact=exact)
    except InputError as error:
        if device != "cpu":
            raise
        return _instead(file, name, error)


def run_onnx(runner: R, run: Callable[[R | ReferenceRunner], T]) -> tuple[R | ReferenceRunner, T]:
    """What `run` gives for `runner`, and the runner that computed it: where a kernel of ONNX Runtime refuses on the CPU
    what the reference evaluator takes, that is the evaluator. Every other runner is only called.

    Raises:
        InputError: neither takes it; the cause is that of `runner`.
    """
    try:
        return runner, run(runner)
    except InputError as error:
        if not isinstance(runner, OnnxRunner) or runner.device != "cpu":
            raise
        other = _instead(runner.file, runner.name, error)
        try:
            return other, run(other)
        except InputError:
            raise error from None


class WillingRunner:
    """A model in ONNX Runtime on the CPU, or in the reference evaluator where it is valid and ONNX Runtime refuses it.

    That shows on loading or at the first run; once ONNX Runtime has run the model, what it refuses is refused.

    Raises:
        InputError: neither can load it.
    """

    def __init__(self, model: onnx.ModelProto | ModelFile, *, name: str | None = None) -> None:
        self.runner = open_onnx(model, name=name, exact=True)
        self._has_run = False
        self.file, self.name, self.batch = self.runner.file, self.runner.name, self.runner.batch
        self.inputs, self.outputs = self.runner.inputs, self.runner.outputs

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch.

        Raises:
            InputError: the arrays are not what the model takes.
        """
        if self._has_run:
            return self.runner.run(*arrays)
        self.runner, outputs = run_onnx(self.runner, lambda chosen: chosen.run(*arrays))
        self._has_run = True
        return outputs

    def also(self, model: onnx.ModelProto) -> OnnxRunner | ReferenceRunner:
        """Another form of this model, in what runs this one."""
        if isinstance(self.runner, ReferenceRunner):
            return ReferenceRunner(model)
        return OnnxRunner(model, exact=True)


def _instead(file: ModelFile, name: str | None, refusal: InputError) -> ReferenceRunner:
    try:
        return ReferenceRunner(file, name=name)
    except InputError:
        raise refusal from None


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim)
    return TensorSpec(value.name, tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
