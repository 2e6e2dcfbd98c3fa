"""`LatencyTable`: measured milliseconds of every operation at every place of a space, and what they add up to.

Expected latency of the weights p of a supernet's edges, differentiable in p:

    rest + sum over cells, edges and operations of p t

where t is the time of an operation alone and rest that of everything between the edges (after Cai et al.:
"ProxylessNAS", ICLR 2019, arXiv:1812.00332, section 3.3). `rtool bench operations` makes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ...files.atomic_file import write_atomically
from ...records.json_text import parse_json
from .genotype import Genotype
from .parsing import genotype_weights
from .space import STEMS, SearchSpace

__all__ = ["LatencyTable", "Place", "free_of_cost", "places", "read_latency_table"]

SCHEMA = 1
_MAKE = "make it with `rtool bench operations`"
_OF_SPACE = ("cells", "nodes", "channels", "stem")


@dataclass(frozen=True, order=True)
class Place:
    """Where an operation may be: its input's channels, height and width, and its stride."""

    channels: int
    height: int
    width: int
    stride: int


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per image of each operation at each place of one space."""

    space: SearchSpace
    height: int
    width: int
    """Of the images, in pixels."""
    rest_ms: float
    """Of the network without its edges: stem, inputs of the cells, embedding head."""
    milliseconds: Mapping[tuple[str, Place], float]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Machine, runtime, threads and rounds of the measurement, for people."""

    @cached_property
    def edge_times(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Milliseconds [edges, operations] of the normal cells, all of them together, and of the reduction cells."""
        space = self.space
        normal, reduce = (np.zeros((space.edges, len(space.operations))) for _ in range(2))
        for plan, edges in zip(space.plans, places(space, self.height, self.width), strict=True):
            times = reduce if plan.reduces else normal
            for edge, place in enumerate(edges):
                times[edge] += [self.milliseconds[operation, place] for operation in space.operations]
        return normal, reduce

    def expected_ms(self, normal: Any, reduce: Any) -> Any:
        """Expected milliseconds of weights [edges, operations], arrays or tensors; a scalar of the same kind."""
        if isinstance(normal, np.ndarray):
            times: tuple[Any, Any] = self.edge_times
        else:
            times = tuple(normal.new_tensor(each) for each in self.edge_times)
        return self.rest_ms + (normal * times[0]).sum() + (reduce * times[1]).sum()

    def predicted_ms(self, genotype: Genotype) -> float:
        """Milliseconds of the network of a genotype, as the sum of its operations."""
        return float(self.expected_ms(*genotype_weights(genotype)))

    def check_fits(self, space: SearchSpace, height: int, width: int) -> None:
        """Refuse a table that was measured for another space or size of image.

        Raises:
            InputError: naming what differs.
        """
        asked = {name: getattr(space, name) for name in _OF_SPACE} | {"height": height, "width": width}
        own = {name: getattr(self.space, name) for name in _OF_SPACE} | {"height": self.height, "width": self.width}
        differing = [f"{name} {own[name]} instead of {value}" for name, value in asked.items() if own[name] != value]
        lacking = [name for name in space.operations if name not in self.space.operations]
        if lacking:
            differing.append(f"no operation {', '.join(lacking)}")
        if differing:
            raise InputError(f"latency table: measured for another space: {'; '.join(differing)}; {_MAKE}")

    def of_operations(self, space: SearchSpace) -> LatencyTable:
        """The same times for a space with other operations, all of which the table has.

        Raises:
            InputError: it lacks one, or is of another space.
        """
        self.check_fits(space, self.height, self.width)
        return LatencyTable(space, self.height, self.width, self.rest_ms, self.milliseconds, self.conditions)

    def write(self, path: Path) -> None:
        """Write the table as JSON, in full or not at all.

        Raises:
            InputError: it cannot be written there.
        """
        rows = [
            {"operation": operation, **asdict(place), "ms": round(time, 6)}
            for (operation, place), time in sorted(self.milliseconds.items())
        ]
        content = {
            "schema": SCHEMA,
            "space": {name: getattr(self.space, name) for name in _OF_SPACE}
            | {"operations": list(self.space.operations)},
            "height": self.height,
            "width": self.width,
            "rest_ms": round(self.rest_ms, 6),
            "rows": rows,
            "conditions": dict(self.conditions),
        }
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def places(space: SearchSpace, height: int, width: int) -> tuple[tuple[Place, ...], ...]:
    """Cell -> edge -> where it is, for images of a height and width in pixels."""
    divisor = STEMS[space.stem]
    height, width = -(-height // divisor), -(-width // divisor)
    cells = []
    for plan in space.plans:
        small = (-(-height // 2), -(-width // 2)) if plan.reduces else (height, width)
        inner = Place(plan.channels, *small, 1)
        outer = Place(plan.channels, height, width, 2 if plan.reduces else 1)
        cells.append(tuple(outer if state < 2 else inner for edges in space.node_edges for state in range(len(edges))))
        height, width = small
    return tuple(cells)


def free_of_cost(operation: str, stride: int) -> bool:
    """Whether an operation is no node of the exported network: nothing, or its input."""
    return operation == "none" or (operation == "skip" and stride == 1)


def read_latency_table(path: str | Path) -> LatencyTable:
    """The table in a file.

    Raises:
        InputError: there is no such file, it is no latency table of schema 1, or it lacks an operation at a place.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{path}: no such latency table; {_MAKE}")
    try:
        content = parse_json(file.read_bytes())
        if content["schema"] != SCHEMA:
            raise InputError(f"{path}: latency table of schema {content['schema']!r:.40}; this rtool reads {SCHEMA}")
        stated = content["space"]
        space = SearchSpace(operations=tuple(stated["operations"]), **{name: stated[name] for name in _OF_SPACE})
        times = {
            (str(row["operation"]), Place(*(int(row[name]) for name in ("channels", "height", "width", "stride")))): (
                _milliseconds(row["ms"])
            )
            for row in content["rows"]
        }
        size = int(content["height"]), int(content["width"])
        table = LatencyTable(space, *size, _milliseconds(content["rest_ms"]), times, dict(content["conditions"]))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a latency table ({type(error).__name__}: {error}); {_MAKE}") from error
    for place in sorted({place for cell in places(space, *size) for place in cell}):
        for operation in space.operations:
            if (operation, place) not in times:
                raise InputError(f"{path}: has no time of {operation} at {place}; {_MAKE}")
    return table


def _milliseconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise ValueError(f"expected milliseconds, got {value!r:.40}")
    return float(value)
