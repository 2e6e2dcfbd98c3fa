"""One cell of the export matrix: a network of the zoo exported by one exporter, converted, and compared.

Outputs are compared with ONNX Runtime's on the same file, gradients and batch statistics with those of the original
module. The relative error of outputs is the largest difference over the largest output. For gradients and statistics it
is computed per tensor: the largest difference over the largest element of the original's tensor. The gradient of a bias
that the next BatchNorm cancels is zero except for rounding; therefore the divisor is at least the square root of the
machine epsilon times the network's largest gradient. A difference of 1e-4 of that is, in float32, less than one unit in
the last place of the largest gradient.

Two float32 computations of one function may fall on different sides of a ReLU's kink and then differ by far more than
rounding. Therefore, where gradients differ in float32, both modules are compared again in float64, from the same
weights; the cell states in which type its figure was measured. A fault of the converter shows in both.
"""

from __future__ import annotations

import copy
import io
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ...converters.lowering.conversion import onnx_to_torch
from ...converters.runtime.parity import measure_parity
from ...converters.runtime.probes.probing import probe_pixels
from ...converters.runtime.runners import OnnxRunner
from ...converters.zoo.registry import architecture_preprocessing, build_architecture
from ...errors import RtoolError

__all__ = ["EXPORTERS", "Cell", "Difference", "Row", "Subject", "export", "measure_cell", "random_subject"]

EXPORTERS: Mapping[str, tuple[Literal["torchscript", "dynamo"], int]] = {
    "torchscript-11": ("torchscript", 11),
    "torchscript-17": ("torchscript", 17),
    "dynamo-18": ("dynamo", 18),
    "dynamo-20": ("dynamo", 20),
    "dynamo-23": ("dynamo", 23),
}
OUTPUT_BOUND = 1e-5
GRADIENT_BOUND = 1e-4
_IMAGES = 16
_OPEN_SIZES = (1, 2, 3, 16)
"""Batches at which a file with a dynamic batch is compared."""
_GRADIENT_BATCH = 2
"""Images for gradients, where the batch is dynamic; a larger batch would show nothing more."""
_OTHER_BATCH = 3
_STATISTICS_BATCH = 4
_ENDS_OF_BRANCHES = ("bn3", "conv3.bn")
"""The last BatchNorms of the residual branches of ResNet, iResNet and OSNet; MobileFaceNet and ViT need no scaling."""
_BRANCH_SCALE = 0.2
_SEED = 0


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix; `batch` 0 stands for a dynamic batch."""

    network: str
    exporter: str
    batch: int
    fused: bool


@dataclass(frozen=True)
class Difference:
    """The tensor that differs most, and the type in which it was computed."""

    relative: float
    tensor: str
    dtype: str
    batch: int
    float32_relative: float
    """The same difference in float32; equal to `relative` unless `dtype` is float64."""


@dataclass
class Row:
    """The measurements of a cell. `problem` is the message of a refusal."""

    network: str
    exporter: str
    batch: int
    fused: bool
    batchnorms: int = 0
    """BatchNormalization nodes in the file."""
    problem: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    """Batch -> relative error against ONNX Runtime."""
    other_batch_error: float | None = None
    """Error of the module of a file with a fixed batch at another batch; None where it does not run."""
    names_equal: bool | None = None
    """For unfused files: whether the parameters have the original's names."""
    gradients: Difference | None = None
    training: dict[str, Difference] = field(default_factory=dict)
    """For unfused files, at one batch: outputs, statistics and gradients of a step in training mode."""
    seconds: float = 0.0

    @property
    def misses(self) -> list[str]:
        """The missed bounds; empty when all hold."""
        found = [f"refused: {self.problem}"] if self.problem else []
        found += [f"error {e:.2g} at batch {b}" for b, e in self.errors.items() if not e <= OUTPUT_BOUND]
        if self.names_equal is False:
            found.append("names differ")
        compared = {"gradients": self.gradients} if self.gradients else {}
        compared.update({f"training: {name}": difference for name, difference in self.training.items()})
        for name, difference in compared.items():
            if not difference.relative <= GRADIENT_BOUND:
                found.append(f"{name} of {difference.tensor} {difference.relative:.2g} ({difference.dtype})")
        return found


@dataclass
class Subject:
    """An original module in eval mode, and images for it, float32 [16, 3, H, W]."""

    network: str
    module: nn.Module
    images: Tensor


def random_subject(network: str) -> Subject:
    """The network with weights that all differ (exporters merge equal ones) and BatchNorm statistics that fit them.

    The statistics are averages over the images, so that activations neither vanish nor explode at any depth. Two
    measures keep rounding as small as in a trained network. The last BatchNorm of every residual branch is scaled down,
    as at the start of training recipes ("Accurate, Large Minibatch SGD", Goyal et al., arXiv:1706.02677, section 5.1):
    with gamma 1 everywhere, ResNet-50 in float32 differs from itself in float64 by 7e-5, with this by 4e-6. And
    BatchNorms of vectors divide by the second moment, because random networks give all images nearly the same
    embedding, with a tiny variance.
    """
    torch.manual_seed(_SEED)
    preprocessing = architecture_preprocessing(network)
    images = torch.from_numpy(preprocessing.normalise(probe_pixels(preprocessing, _IMAGES, seed=_SEED)))
    module = build_architecture(network).train()
    norms = {n: m for n, m in module.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * parameter.std(correction=0).clamp_min(0.1) * torch.randn_like(parameter))
        for name, norm in norms.items():
            norm.momentum = None  # a plain average instead of a moving one
            if name.endswith(_ENDS_OF_BRANCHES):
                norm.weight.mul_(_BRANCH_SCALE)
        for part in torch.split(images, _IMAGES // 2):
            module(part)
        for name, norm in norms.items():
            norm.momentum = momenta[name]
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_var += norm.running_mean.square()  # type: ignore[operator, union-attr]
    return Subject(network, module.eval(), images)


def export(subject: Subject, cell: Cell) -> onnx.ModelProto:
    """Export the module; both exporters fuse Conv and BatchNorm unless that is switched off."""
    kind, opset = EXPORTERS[cell.exporter]
    example = subject.images[: cell.batch or 2]
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["embedding"], "opset_version": opset}
    file = io.BytesIO()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "torchscript":
                mode = torch.onnx.TrainingMode.EVAL if cell.fused else torch.onnx.TrainingMode.PRESERVE
                axes = {} if cell.batch else {"dynamic_axes": {"images": {0: "batch"}, "embedding": {0: "batch"}}}
                options = {"training": mode, "do_constant_folding": cell.fused, **axes, **names}
                torch.onnx.export(subject.module, (example,), file, dynamo=False, **options)  # type: ignore[arg-type]
            else:
                shapes = {} if cell.batch else {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
                options = {"optimize": cell.fused, "verbose": False, **shapes, **names}
                torch.onnx.export(subject.module, (example,), file, dynamo=True, **options)  # type: ignore[arg-type]
    finally:
        logging.disable(level)
    return onnx.load_from_string(file.getvalue())


def measure_cell(subject: Subject, cell: Cell, *, training: bool = False) -> tuple[Row, onnx.ModelProto]:
    """Export, convert and compare, with `training` also in training mode; returns the row and the ONNX model."""
    start = time.perf_counter()
    model = export(subject, cell)
    row = Row(cell.network, cell.exporter, cell.batch, cell.fused)
    row.batchnorms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    try:
        module = onnx_to_torch(model)
    except RtoolError as refused:
        row.problem = str(refused)
        return row, model
    runner = OnnxRunner(model, threads=torch.get_num_threads())
    for size in [cell.batch] if cell.batch else _OPEN_SIZES:
        images = subject.images[:size]
        row.errors[str(size)] = measure_parity(runner.run(images.numpy()), [_run(module, images)]).max_rel
    if cell.batch:
        row.other_batch_error = _other_batch(subject, module)
    if not cell.fused:
        row.names_equal = _names(module) == _names(subject.module)
        takes_any = not cell.batch or row.other_batch_error is not None
        images = subject.images[: min(cell.batch or _GRADIENT_BATCH, _GRADIENT_BATCH) if takes_any else cell.batch]
        if row.names_equal:
            row.gradients = _compared(subject.module, module, images, training=False)["gradients"]
            if training:
                row.training = _compared(subject.module, module, subject.images[:_STATISTICS_BATCH], training=True)
    row.seconds = round(time.perf_counter() - start, 1)
    return row, model


def _run(module: nn.Module, images: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        output: NDArray[np.float32] = module(images).numpy()
    return output


def _other_batch(subject: Subject, module: nn.Module) -> float | None:
    """The error against the original at a batch for which the file was not made; None when the module does not run."""
    images = subject.images[:_OTHER_BATCH]
    try:
        with torch.no_grad():
            # Not `module(...)`: torch.fx prints the generated code on the terminal when that raises.
            got = module.forward(images).numpy()
    except RuntimeError:
        return None
    return measure_parity([_run(subject.module, images)], [got]).max_rel


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def _compared(original: nn.Module, module: fx.GraphModule, images: Tensor, *, training: bool) -> dict[str, Difference]:
    """Kind of tensor -> the largest difference, in float32, or in float64 where float32 misses the bound."""
    single = _differences(original, module, images, torch.float32, training=training)
    found = {kind: Difference(error, name, "float32", len(images), error) for kind, (error, name) in single.items()}
    if all(difference.relative <= GRADIENT_BOUND for difference in found.values()):
        return found
    wide = _differences(original, module, images, torch.float64, training=training)
    for kind, (error, name) in wide.items():
        if found[kind].relative > GRADIENT_BOUND:
            found[kind] = Difference(error, name, "float64", len(images), found[kind].relative)
    return found


def _differences(
    original: nn.Module, module: nn.Module, images: Tensor, dtype: torch.dtype, *, training: bool
) -> dict[str, tuple[float, str]]:
    """Kind of tensor -> largest (relative error, name), after a forward and backward pass of copies of both modules."""
    expected, got = (_after_a_step(m, images.to(dtype), dtype, training) for m in (original, module))
    found = {}
    for kind, tensors in expected.items():
        largest = max((float(tensor.abs().max()) for tensor in tensors.values()), default=0.0)
        floor = torch.finfo(dtype).eps ** 0.5 * largest if kind == "gradients" else 0.0
        errors = [(_relative(tensor, got[kind][name], floor), name) for name, tensor in tensors.items()]
        found[kind] = max(errors, default=(0.0, ""))
    return found


def _after_a_step(
    module: nn.Module, images: Tensor, dtype: torch.dtype, training: bool
) -> dict[str, dict[str, Tensor]]:
    """Gradients of the output's product with a fixed direction; in training mode also outputs and statistics."""
    twin = copy.deepcopy(module).to(dtype).train(training)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)  # an ArcFace embedding's gamma is frozen, but has a gradient to compare
    output = twin(images)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)
    (output * direction.to(dtype)).sum().backward()
    gradients = {name: _gradient(name, parameter) for name, parameter in twin.named_parameters()}
    if not training:
        return {"gradients": gradients}
    statistics = {name: buffer for name, buffer in twin.named_buffers() if ".running_" in name}
    return {"outputs": {"output": output.detach()}, "statistics": statistics, "gradients": gradients}


def _gradient(name: str, parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError(f"{name} got no gradient")
    return parameter.grad


def _relative(expected: Tensor, got: Tensor, floor: float) -> float:
    difference, scale = float((expected - got).abs().max()), max(floor, float(expected.abs().max()))
    return difference / scale if scale > 0 else (0.0 if difference == 0 else float("inf"))
