"""A cell of a genotype as a picture: SVG text for files and pages, a Pillow image for TensorBoard.

Inputs stand left and the joined output right. Each node has a band of its own, in a column by how deep it lies; an edge
drops in the gap behind the state that it reads, then runs to its operation inside the band of its node, so that no edge
crosses a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from .genotype import Edge, Genotype

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["cell_image", "cell_svg"]

_COLOURS = {
    "skip": "#57606a",
    "max3": "#bc4c00",
    "avg3": "#9a6700",
    "sep3": "#0969da",
    "dil3": "#8250df",
    "part": "#1a7f37",
    "noise": "#cf222e",
}
_INK, _SOFT, _PAPER, _LINE = "#1b1f24", "#f6f8fa", "#ffffff", "#8c959f"
_MARGIN, _TITLE = 12, 30
_PILL, _BOX, _HEIGHT, _STEP, _GAP = 52, 34, 22, 28, 64
"""Widths of an operation and of a node, height of both, distance of operations, width of the gap behind a column."""
_INPUT = 48
_FONT = 13
_STEPS = 24


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    width: float
    height: float
    text: str
    fill: str
    ink: str
    outline: str


@dataclass(frozen=True)
class _Line:
    """From a point to another: a curve that ends at `turn` on the other's height, and a straight piece."""

    start: tuple[float, float]
    turn: float
    end: tuple[float, float]
    colour: str

    @property
    def bend(self) -> tuple[float, float, float]:
        """The two control points' x, and the x where the curve ends; their y are those of start and end."""
        middle = (self.start[0] + self.turn) / 2
        return middle, middle, self.turn


@dataclass(frozen=True)
class _Drawing:
    width: int
    height: int
    title: str
    lines: tuple[_Line, ...]
    boxes: tuple[_Box, ...]


def cell_svg(genotype: Genotype, cell: str, title: str = "") -> str:
    """A cell as SVG text, complete in itself.

    Args:
        genotype: what the search found.
        cell: "normal" or "reduce".
        title: what stands above it; by default which cell it is.
    """
    drawing = _drawn(genotype, cell, title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width} {drawing.height}" '
        f'width="{drawing.width}" height="{drawing.height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="{_FONT}">',
        f"<title>{escape(_described(genotype, cell, drawing.title))}</title>",
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN + _FONT}" fill="{_INK}" font-weight="600">{escape(drawing.title)}</text>',
    ]
    for line in drawing.lines:
        (x, y), (end, low) = line.start, line.end
        first, second, turn = line.bend
        path = f"M{x:g} {y:g}C{first:g} {y:g} {second:g} {low:g} {turn:g} {low:g}H{end:g}"
        parts.append(f'<path d="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>')
    for box in drawing.boxes:
        parts.append(
            f'<rect x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" height="{box.height:g}" rx="5" '
            f'fill="{box.fill}" stroke="{box.outline}"/>'
            f'<text x="{box.left + box.width / 2:g}" y="{box.top + box.height / 2:g}" text-anchor="middle" '
            f'dominant-baseline="central" fill="{box.ink}">{escape(box.text)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def cell_image(genotype: Genotype, cell: str, title: str = "", *, scale: int = 1) -> Image.Image:
    """A cell as an RGB image, as `cell_svg` draws it; `scale` in pixels per unit of the SVG."""
    from PIL import Image, ImageDraw, ImageFont

    drawing = _drawn(genotype, cell, title)
    fine = 2 * scale  # drawn twice as large, because Pillow's lines are not smooth
    image = Image.new("RGB", (drawing.width * fine, drawing.height * fine), _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_FONT * fine)
    draw.text((_MARGIN * fine, (_MARGIN + _FONT / 2) * fine), drawing.title, _INK, font, anchor="lm")
    for line in drawing.lines:
        draw.line([(x * fine, y * fine) for x, y in _points(line)], line.colour, round(1.6 * fine), joint="curve")
    for box in drawing.boxes:
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        draw.rounded_rectangle([each * fine for each in corners], 5 * fine, box.fill, box.outline, fine)
        middle = ((box.left + box.width / 2) * fine, (box.top + box.height / 2) * fine)
        draw.text(middle, box.text, box.ink, font, anchor="mm")
    return image.resize((drawing.width * scale, drawing.height * scale), Image.Resampling.LANCZOS)


def _drawn(genotype: Genotype, cell: str, title: str) -> _Drawing:
    nodes = {"normal": genotype.normal, "reduce": genotype.reduce}[cell]
    depths = _depths(nodes)
    columns = [_MARGIN + _INPUT + _GAP + (depth - 1) * (_PILL + _BOX + _GAP + 12) for depth in depths]
    tops, top = [], float(_MARGIN + _TITLE)
    for edges in nodes:
        tops.append(top)
        top += len(edges) * _STEP + 10
    bottom = top
    right = max(columns) + _PILL + 12 + _BOX + _GAP
    exits: list[tuple[float, float]] = []  # right middle of each state
    boxes, lines = [], []
    for number, name in enumerate(("k-2", "k-1")):
        middle = (_MARGIN + _TITLE + bottom) / 2 - 5 + (number - 0.5) * max(_STEP, (bottom - _MARGIN - _TITLE) / 3)
        boxes.append(_Box(_MARGIN, middle - _HEIGHT / 2, _INPUT, _HEIGHT, name, _SOFT, _INK, _LINE))
        exits.append((_MARGIN + _INPUT, middle))
    for node, (edges, left, top) in enumerate(zip(nodes, columns, tops, strict=True)):
        centre = top + len(edges) * _STEP / 2
        entry = left + _PILL + 12
        for place, (operation, state) in enumerate(edges):
            middle = top + (place + 0.5) * _STEP
            colour = _COLOURS.get(operation, _INK)
            lines.append(_Line(exits[state], exits[state][0] + _GAP - 14, (left, middle), colour))
            lines.append(_Line((left + _PILL, middle), entry, (entry, centre), colour))
            boxes.append(_Box(left, middle - _HEIGHT / 2, _PILL, _HEIGHT, operation, colour, _PAPER, colour))
        boxes.append(_Box(entry, centre - _HEIGHT / 2, _BOX, _HEIGHT, str(node), _SOFT, _INK, _LINE))
        exits.append((entry + _BOX, centre))
        lines.append(_Line(exits[-1], exits[-1][0], (right, centre), _LINE))
    boxes.append(_Box(right, _MARGIN + _TITLE, 20, bottom - _MARGIN - _TITLE - 10, "k", _SOFT, _INK, _LINE))
    named = title or {"normal": "normal cell", "reduce": "reduction cell"}[cell]
    # Lines to the output first, so that those of operations lie over them.
    ordered = sorted(lines, key=lambda line: line.colour != _LINE)
    return _Drawing(round(right) + 20 + _MARGIN, round(bottom) + _MARGIN - 10, named, tuple(ordered), tuple(boxes))


def _depths(nodes: Sequence[Sequence[Edge]]) -> list[int]:
    """How many operations lie between the inputs of the cell and each node, at most."""
    depths = [0, 0]
    for edges in nodes:
        depths.append(1 + max(depths[state] for _, state in edges))
    return depths[2:]


def _described(genotype: Genotype, cell: str, title: str) -> str:
    """The cell in words, for those who do not see it."""
    nodes = {"normal": genotype.normal, "reduce": genotype.reduce}[cell]
    names = ["k-2", "k-1", *map(str, range(len(nodes)))]
    said = (
        f"node {number}: " + " and ".join(f"{operation} of {names[state]}" for operation, state in edges)
        for number, edges in enumerate(nodes)
    )
    return f"{title}: {'; '.join(said)}"


def _points(line: _Line) -> list[tuple[float, float]]:
    """The line as a polygon."""
    (x, y), (end, low) = line.start, line.end
    first, second, turn = line.bend
    points = []
    for step in range(_STEPS + 1):
        t = step / _STEPS
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        points.append((a * x + b * first + c * second + d * turn, (a + b) * y + (c + d) * low))
    return [*points, (end, low)]
