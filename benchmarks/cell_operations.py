"""`rtool bench operations`: the time of every operation of a search space at every place, on this machine.

Each operation is exported as a graph of its own and timed beside the others by `latency`, in turns; what a call costs
without an operation is taken off. The table answers what a cell will cost before it is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..converters.exporting.reexport import torch_to_onnx
from ..converters.zoo.cells.body import CellInputs, EmbeddingHead, build_stem
from ..converters.zoo.cells.drawing import random_genotype
from ..converters.zoo.cells.latency_table import LatencyTable, Place, free_of_cost, places
from ..converters.zoo.cells.operations import build_operation
from ..converters.zoo.cells.searched import SearchedNetwork
from ..converters.zoo.cells.space import SearchSpace
from ..converters.zoo.registry import architecture_preprocessing
from ..errors import ConfigError, InputError
from ..finetune.config.config import FinetuneConfig
from ..finetune.config.files import load_config
from .timing import latency

__all__ = ["measure_operations", "operations", "prediction"]


class _Frame(nn.Module):
    """A network of the space without edges: each node is an input of its cell, halved where the cell halves."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.stem = build_stem(space.stem, space.channels)
        self.inputs = nn.ModuleList(CellInputs(plan, affine=True) for plan in space.plans)
        self.head = EmbeddingHead(space.nodes * space.plans[-1].channels, space.embedding_size)
        self._nodes, self._steps = space.nodes, [2 if plan.reduces else 1 for plan in space.plans]

    def forward(self, images: Tensor) -> Tensor:
        before_last = last = self.stem(images)
        for inputs, step in zip(self.inputs, self._steps, strict=True):
            states = inputs(before_last, last)
            if step > 1:  # the cheapest way to halve; a slice with a step is slow in ONNX Runtime
                states = [F.max_pool2d(state, 1, step) for state in states]
            before_last, last = last, torch.cat([states[node % 2] for node in range(self._nodes)], dim=1)
        embedding: Tensor = self.head(last)
        return embedding


def operations(
    config: str | Path | FinetuneConfig,
    overrides: Sequence[str] = (),
    *,
    batch: int = 1,
    rounds: int = 50,
    threads: int | None = 1,
    check: int = 0,
    report: Callable[[str], object] = lambda _: None,
) -> LatencyTable:
    """Time every operation of the space of a configuration, for images of its size.

    Args:
        config: A file with a section `search`, or what was read from one.
        overrides: Such as `search.channels=8`.
        batch: Images per call; the table's times are per image.
        rounds: Calls of each graph, in turns; the table has their medians.
        threads: Of ONNX Runtime; None leaves it to the runtime.
        check: Random cells that are timed whole, to hold the table against them; the outcome is `conditions["check"]`.
        report: Called with a line on what is done.

    Raises:
        ConfigError: the configuration has no section `search`.
        InputError: images too low for the operation `part`, fewer than 3 rounds, or fewer than 3 cells to check.
    """
    resolved = load_config(config, overrides)
    if resolved.search is None:
        raise ConfigError("bench operations: the configuration has no section search; add one, search: {} is enough")
    if check:
        _check_number(check)
    size = architecture_preprocessing("searched", input_size=resolved.model.size)
    space = resolved.search.space()
    table = measure_operations(
        space, size.height, size.width, batch=batch, rounds=rounds, threads=threads, report=report
    )
    if not check:
        return table
    held = prediction(table, cells=check, batch=batch, rounds=rounds, threads=threads, report=report)
    return replace(table, conditions={**table.conditions, "check": held})


def measure_operations(
    space: SearchSpace,
    height: int,
    width: int,
    *,
    batch: int = 1,
    rounds: int = 50,
    threads: int | None = 1,
    report: Callable[[str], object] = lambda _: None,
) -> LatencyTable:
    """Time every operation of `space` for images of a height and width in pixels, in ONNX Runtime on the CPU.

    Args:
        space: the cells; what is not among its operations is not measured.
        height: of the images.
        width: of the images.
        batch: images per call; the table's times are per image.
        rounds: calls of each graph, in turns; the table has their medians.
        threads: of ONNX Runtime; None leaves it to the runtime.
        report: called with a line on what is done.

    Raises:
        InputError: images too low for the operation `part`, or fewer than 3 rounds.
    """
    space.check_height(height)
    found = sorted({place for cell in places(space, height, width) for place in cell})
    wanted = [(name, place) for place in found for name in space.operations if not free_of_cost(name, place.stride)]
    report(f"exporting {len(wanted)} operations at {len(found)} places")
    with TemporaryDirectory(prefix="rtool-operations-") as folder:
        # Each operation is timed beside a graph of its input's size that only hands it on.
        files = [Path(folder) / "rest.onnx"]
        _export(_Frame(space), (1, 3, height, width), files[0])
        hands = {place: Path(folder) / f"hand-{number}.onnx" for number, place in enumerate(found)}
        for place, file in hands.items():
            _hand_on(place, file)
        own = {key: Path(folder) / f"operation-{number}.onnx" for number, key in enumerate(wanted)}
        for (name, place), file in own.items():
            operation = build_operation(name, place.channels, place.stride, affine=True)
            _export(operation, (1, place.channels, place.height, place.width), file)
        files += [*hands.values(), *own.values()]
        report(f"timing {len(files)} graphs, {rounds} rounds")
        measured = latency(files, batch=batch, rounds=rounds, threads=threads)
    medians = dict(zip(files, (row.p50 / batch for row in measured.rows), strict=True))
    times = {(name, place): 0.0 for place in found for name in space.operations}
    times |= {(name, place): max(0.0, medians[file] - medians[hands[place]]) for (name, place), file in own.items()}
    conditions = {"batch": batch, "rounds": rounds, "threads": threads, "machine": measured.machine}
    return LatencyTable(space, height, width, medians[files[0]], times, conditions)


def prediction(
    table: LatencyTable,
    *,
    cells: int,
    batch: int = 1,
    rounds: int = 50,
    threads: int | None = 1,
    seed: int = 0,
    report: Callable[[str], object] = lambda _: None,
) -> dict[str, object]:
    """What a table predicts of whole networks of random cells, and what they take.

    Returns:
        `rank_correlation` (Spearman), and `measured_ms` and `predicted_ms` per image of each network.

    Raises:
        InputError: fewer than 3 cells, which have no order to speak of.
    """
    _check_number(cells)
    generator = np.random.default_rng(seed)
    drawn = [random_genotype(table.space, generator) for _ in range(cells)]
    report(f"exporting {cells} whole networks")
    with TemporaryDirectory(prefix="rtool-operations-") as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(cells)]
        for genotype, file in zip(drawn, files, strict=True):
            network = SearchedNetwork(genotype=genotype.to_json(), embedding_size=table.space.embedding_size)
            _export(network, (1, 3, table.height, table.width), file)
        rows = latency(files, batch=batch, rounds=rounds, threads=threads).rows
    measured = np.array([row.p50 / batch for row in rows])
    predicted = np.array([table.predicted_ms(genotype) for genotype in drawn])
    first, second = (values.argsort().argsort().astype(np.float64) for values in (measured, predicted))
    return {
        "rank_correlation": round(float(np.corrcoef(first, second)[0, 1]), 4),
        "measured_ms": measured.round(4).tolist(),
        "predicted_ms": predicted.round(4).tolist(),
    }


def _check_number(cells: int) -> None:
    if cells < 3:
        raise InputError(f"bench operations: a table is held against at least 3 cells, got {cells}")


def _export(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):  # otherwise its scale of 1 and shift of 0 might be folded away
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    onnx.save(torch_to_onnx(module.eval(), torch.zeros(shape)), path)


def _hand_on(place: Place, path: Path) -> None:
    """A graph that copies the first pixel of its input, [N, C, H, W] -> [N, C, 1, 1]: what a call alone costs."""
    sizes: list[str | int | None] = ["batch", place.channels, place.height, place.width]
    value = onnx.helper.make_tensor_value_info
    constants = {"starts": [0, 0], "ends": [1, 1], "axes": [2, 3]}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Slice", ["images", *constants], ["embedding"])],
        "hand_on",
        [value("images", onnx.TensorProto.FLOAT, sizes)],
        [value("embedding", onnx.TensorProto.FLOAT, ["batch", place.channels, 1, 1])],
        [onnx.numpy_helper.from_array(np.array(values, np.int64), name) for name, values in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
