"""Prove that a model takes an open batch: a batch gives what its images give one by one, at several sizes.

A file may declare an open batch and still mix images: window attention that was traced at a batch of 4 has that 4 in a
Reshape, which runs at any batch. Only running it shows that. `find_batch` is the one place where this is done.

1. Some images run alone, and the rows of larger batches are compared with them; sizes above the number of images
   repeat them, neighbours being different ones.
2. If a size differs, the sizes at which the model may be right are searched: size n is sound where every image of a
   batch has the result that a batch of its copies gives. Sound sizes are grouped by equal results. The function of the
   largest group is the right one; where each size has a function of its own, the size that a constant shape of the
   graph holds is (`held_batches`), because the exporter traced the network at it. Otherwise nothing tells which.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ....errors import InputError
from ...records.batch_proof import BatchProof
from ...records.record import TensorSpec
from ..double_precision import exact_outputs
from ..parity import measure_parity
from ..probes.given_probes import Probe, with_probes
from ..probes.open_sizes import given_sizes
from ..probes.probing import probe_inputs
from ..runners import Runner

__all__ = [
    "LARGE_SIZES",
    "REDUCED",
    "SIZES",
    "TOLERANCE",
    "BatchFinding",
    "BatchImages",
    "batched",
    "find_batch",
    "held_batches",
]

SIZES = (1, 2, 3, 16)
"""Images at which an open batch is proved."""
LARGE_SIZES = (1, 2, 3)
"""The same where every image costs: two rows show a mixing of images, three also one that repeats."""
TOLERANCE = 1e-5
"""Largest relative error; above 0 because kernels may sum in another order for another batch."""
REDUCED = 2e-2
"""The same for 16 and 8 bits, where another order of summing may round a value to the next number."""
_DISTINCT = 3
_FEW = 2
"""Of the sizes of `LARGE_SIZES`, where each image costs; a batch of 2 shows what the third image repeats."""
_SEARCHED = range(2, 17)
_SHAPED = frozenset({"Expand", "Reshape"})
_OPEN_SIZE = 64
"""Of an axis beside the batch, where nothing states one."""

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class BatchFinding:
    """What was found about an open batch: proved, wrong, or not to be run."""

    proof: BatchProof | None = None
    right_at: int | None = None
    """The batch that the model is right at, where a batch is not its images one by one at every size."""
    reason: str = ""
    """Why there is no proof."""
    is_wrong: bool = False
    """Whether the model ran, and a batch is not its images one by one."""

    def describe(self) -> str:
        """A sentence for people; "" where the batch is proved."""
        if self.proof is not None:
            return ""
        if not self.is_wrong:
            return f"declares an open batch that cannot be verified ({self.reason})"
        right = (
            f"right at a batch of {self.right_at} only" if self.right_at else "at which batch it is right is not known"
        )
        return f"declares an open batch, but {self.reason}; {right}"


@dataclass(frozen=True)
class BatchImages:
    """Inputs for any number of images: `distinct` ones, repeated in turn; an input without image axis stays whole."""

    arrays: Arrays
    cut: tuple[bool, ...]
    distinct: int

    @classmethod
    def of(
        cls,
        specs: Sequence[TensorSpec],
        distinct: int,
        examples: Sequence[NDArray[Any]] | None = None,
        *,
        open_size: int | None = _OPEN_SIZE,
        probes: Mapping[str, Probe] | None = None,
    ) -> Self:
        """Seeded random inputs; sizes beside the batch that are open are those of `examples`, else `open_size`.

        Args:
            specs: the inputs of a model.
            distinct: how many different images.
            examples: one array per input, of which the sizes count.
            open_size: see above.
            probes: values of single inputs, by name, in place of random ones.

        Raises:
            InputError: such a size is open, and both are None; or a probe does not fit.
        """
        specs = given_sizes(specs, probes or {})
        shapes = [spec.shape for spec in specs] if examples is None else [array.shape for array in examples]
        cut = batched(specs)
        sized = []
        for spec, known, has_images in zip(specs, shapes, cut, strict=True):
            given = zip(spec.shape, known, strict=True)
            sizes = [own if isinstance(own, int) else other for own, other in given]
            sizes = [size if isinstance(size, int) or open_size is None else open_size for size in sizes]
            sized.append(replace(spec, shape=("batch", *sizes[1:]) if has_images else tuple(sizes)))
        return cls(with_probes(specs, probe_inputs(sized, distinct), probes or {}), cut, distinct)

    def rows(self, images: Sequence[int]) -> Arrays:
        """The inputs for these images, each a number from 0; they start again behind the last distinct one."""
        chosen = np.array(images) % self.distinct
        return tuple(array[chosen] if cut else array for array, cut in zip(self.arrays, self.cut, strict=True))


def batched(specs: Sequence[TensorSpec]) -> tuple[bool, ...]:
    """Per input, whether axis 0 is the batch: it is open, or has the size of the first input's axis 0."""
    first = next((spec.shape[0] for spec in specs if spec.shape), None)
    shapes = [spec.shape for spec in specs]
    return tuple(bool(shape) and (not isinstance(shape[0], int) or shape[0] == first) for shape in shapes)


def find_batch(
    runner: Runner,
    *,
    examples: Sequence[NDArray[Any]] | None = None,
    sizes: Sequence[int] = SIZES,
    tolerance: float = TOLERANCE,
    held: Collection[int] = (),
    probes: Mapping[str, Probe] | None = None,
) -> BatchFinding:
    """Whether `runner`, which declares an open batch, gives for a batch what it gives for its images one by one.

    Args:
        runner: a model; its `batch` is not looked at.
        examples: one array per input, for the sizes beside the batch that the model leaves open.
        sizes: numbers of images to prove.
        tolerance: largest relative error, see `Parity.max_rel`.
        held: numbers that may be the batch at which the model was traced, see `held_batches`.
        probes: values of single inputs, by name, in place of random ones.

    Raises:
        InputError: the same images get other outputs in each run.
    """
    distinct = _FEW if max(sizes) <= max(LARGE_SIZES) else _DISTINCT
    images = BatchImages.of(runner.inputs, distinct, examples, probes=probes)
    try:
        singles = [runner.run(*images.rows([index])) for index in range(images.distinct)]
    except InputError as error:
        groups = _sound_sizes(runner, images, None, tolerance)
        runs = bool(groups) or any(_runs(runner, images, size) for size in _SEARCHED)
        return BatchFinding(None, _right_size(groups, held), f"a batch of 1 cannot be run ({error})", runs)
    worst = 0.0
    for size in sizes:
        if size == 1:
            continue
        found = _error_at(runner, images, size, singles)
        if isinstance(found, float) and not found <= tolerance:
            _refuse_random(runner, images.rows(range(size)), tolerance)
            found = _exact_error_at(runner, images, size, found)
        if isinstance(found, str) or not found <= tolerance:
            reason = found if isinstance(found, str) else f"differs from its images one by one by {found:.2g} relative"
            groups = _sound_sizes(runner, images, singles[0], tolerance)
            return BatchFinding(None, _right_size(groups, held), f"a batch of {size} {reason}", True)
        worst = max(worst, found)
    return BatchFinding(BatchProof(tuple(sizes), worst))


def _error_at(runner: Runner, images: BatchImages, size: int, singles: Sequence[Arrays]) -> float | str:
    """The largest relative error of a batch of `size`; or what is wrong with it beside numbers."""
    try:
        got = runner.run(*images.rows(range(size)))
    except InputError as error:
        return f"cannot be run ({error})"
    return batch_error([singles[index % images.distinct] for index in range(size)], got)


def _runs(runner: Runner, images: BatchImages, size: int) -> bool:
    try:
        runner.run(*images.rows(range(size)))
    except InputError:
        return False
    return True


def _refuse_random(runner: Runner, rows: Arrays, tolerance: float) -> None:
    first, again = runner.run(*rows), runner.run(*rows)
    error = measure_parity(first, again).max_rel
    if not error <= tolerance and all(np.isfinite(output).all() for output in first):
        raise InputError(
            f"{runner.name}: the same images get other outputs in each run (by {error:.2g} relative), so nothing that "
            "is measured of it holds: it draws random numbers, or was exported in training mode; export it in eval "
            "mode, and make random numbers an input"
        )


def _exact_error_at(runner: Runner, images: BatchImages, size: int, otherwise: float) -> float:
    """The same in float64, which tells a network that mixes images from one that amplifies rounding; `otherwise`, where
    it cannot be computed.
    """
    whole = exact_outputs(runner, images.rows(range(size)))
    singles = [exact_outputs(runner, images.rows([index])) for index in range(size)] if whole is not None else []
    if whole is None or any(single is None for single in singles):
        return otherwise
    found = batch_error([single for single in singles if single is not None], whole)
    return otherwise if isinstance(found, str) else found


def batch_error(singles: Sequence[Arrays], got: Sequence[NDArray[Any]]) -> float | str:
    """The largest relative error of the outputs `got` of a batch against those of its images; or what its shape is."""
    worst = 0.0
    for index, (output, *alone) in enumerate(zip(got, *singles, strict=True)):
        rows = len(alone[0]) if alone[0].ndim else 0
        if rows and output.shape == (rows * len(alone), *alone[0].shape[1:]):
            expected = np.concatenate(alone)
        elif output.shape == alone[0].shape:  # one for all images: it may not depend on them
            expected, output = np.stack(alone), np.stack([output] * len(alone))
        else:
            return f"has output {index} of shape {list(output.shape)}, and its images {list(alone[0].shape)}"
        worst = max(worst, measure_parity([expected], [output]).max_rel)
    return worst


def _sound_sizes(runner: Runner, images: BatchImages, alone: Arrays | None, tolerance: float) -> list[list[int]]:
    """Step 2 of the module: sound sizes in groups of equal results; a batch of 1 is always sound."""
    groups: list[tuple[list[int], Arrays]] = [] if alone is None else [([1], alone)]
    for size in _SEARCHED:
        result = _result_of_copies(runner, images, size, tolerance)
        if result is None:
            continue
        for members, common in groups:
            if _agree([common], result, tolerance):
                members.append(size)
                break
        else:
            groups.append(([size], result))
    return [members for members, _ in groups]


def _right_size(groups: Sequence[Sequence[int]], held: Collection[int]) -> int | None:
    """The largest size of the right group; None where nothing tells which group that is."""
    if len(groups) == 1:
        return max(groups[0])
    largest = max((len(group) for group in groups), default=0)
    candidates = [group for group in groups if len(group) == largest]
    if largest == 1:
        candidates = [group for group in candidates if group[0] > 1 and group[0] in held]
    return max(candidates[0]) if len(candidates) == 1 else None


def held_batches(model: onnx.ModelProto) -> frozenset[int]:
    """First numbers above 1 of constant shapes that Reshape and Expand take: what a traced batch is left in."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    found = set()
    for node in model.graph.node:
        tensor = constants.get(node.input[1]) if node.op_type in _SHAPED and len(node.input) > 1 else None
        if tensor is None or tensor.data_type != tensor.INT64 or list(tensor.dims) < [2] or tensor.external_data:
            continue
        found.add(int(numpy_helper.to_array(tensor).reshape(-1)[0]))
    return frozenset(number for number in found if number > 1)


def _result_of_copies(runner: Runner, images: BatchImages, size: int, tolerance: float) -> Arrays | None:
    """The result of image 0 in a batch of its copies; None where the images of a batch of `size` do not have theirs."""
    places = sorted({0, 1, size - 1})
    try:
        got = runner.run(*images.rows(range(size)))
        copies = [runner.run(*images.rows([place] * size)) for place in places]
    except InputError:
        return None
    if any(not output.ndim or len(output) % size for output in got):
        return None
    for place, copied in zip(places, copies, strict=True):
        mine = tuple(_rows_of(output, place, size) for output in got)
        if not all(_agree([_image(copied, slot, size)], mine, tolerance) for slot in range(size)):
            return None
    return _image(copies[0], 0, size)


def _image(outputs: Arrays, place: int, size: int) -> Arrays:
    return tuple(_rows_of(output, place, size) for output in outputs)


def _rows_of(output: NDArray[Any], place: int, size: int) -> NDArray[Any]:
    rows = len(output) // size
    return output[place * rows : (place + 1) * rows]


def _agree(expected: Sequence[Arrays], got: Arrays, tolerance: float) -> bool:
    error = batch_error(expected, got)
    return not isinstance(error, str) and error <= tolerance
