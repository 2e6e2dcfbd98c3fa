"""Pictures of cells: they say what the genotype says, no edge crosses a box, SVG and image agree."""

from xml.etree import ElementTree

import numpy as np
import pytest

from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.pictures import _drawn, _points, cell_image, cell_svg
from rtool.converters.zoo.cells.space import SearchSpace

SPACES = [SearchSpace(), SearchSpace(nodes=1), SearchSpace(nodes=6, inputs_per_node=3)]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.nodes} nodes")
@pytest.mark.parametrize("cell", ["normal", "reduce"])
def test_the_svg_names_every_operation_node_and_input(space, cell):
    found = random_genotype(space, np.random.default_rng(0))
    root = ElementTree.fromstring(cell_svg(found, cell, "a < b & c"))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    expected = [operation for edges in getattr(found, cell) for operation, _ in edges]
    assert texts[0] == "a < b & c"
    assert sorted(texts[1:]) == sorted([*expected, "k-2", "k-1", "k", *map(str, range(space.nodes))])
    said = root.find(f"{SVG}title").text
    operation, state = getattr(found, cell)[0][0]
    assert f"node 0: {operation} of {('k-2', 'k-1')[state]}" in said


@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.nodes} nodes")
def test_no_edge_crosses_a_box_and_no_boxes_touch(space):
    for seed in range(20):
        drawing = _drawn(random_genotype(space, np.random.default_rng(seed)), "normal", "")
        for box in drawing.boxes:
            assert 0 <= box.left <= box.left + box.width <= drawing.width
            assert 0 <= box.top <= box.top + box.height <= drawing.height
            for other in drawing.boxes:
                apart = (
                    box.left + box.width <= other.left
                    or other.left + other.width <= box.left
                    or box.top + box.height <= other.top
                    or other.top + other.height <= box.top
                )
                assert other is box or apart
            for line in drawing.lines:
                for x, y in _points(line):
                    inside = _within(x, box.left, box.width) and _within(y, box.top, box.height)
                    assert not inside, (seed, box, line)


def _within(value: float, start: float, length: float) -> bool:
    """Whether it is between both ends by more than the rounding of a curve's points."""
    return start + 1e-6 < value < start + length - 1e-6


def test_image_and_svg_have_one_layout():
    found = random_genotype(SearchSpace(), np.random.default_rng(0))
    root = ElementTree.fromstring(cell_svg(found, "reduce"))
    image = cell_image(found, "reduce", scale=2)
    assert image.size == (2 * int(root.get("width")), 2 * int(root.get("height")))
    pixels = np.asarray(image)
    for box in _drawn(found, "reduce", "").boxes:
        corner = pixels[int(2 * box.top + 6), int(2 * box.left + 6)]
        wanted = [int(box.fill[at : at + 2], 16) for at in (1, 3, 5)]
        assert np.abs(corner.astype(int) - wanted).max() <= 2
