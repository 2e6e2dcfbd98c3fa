"""The demo's page and pictures: complete, self-contained, escaped, and right about right and wrong."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from rtool.benchmarks.load import LoadReport
from rtool.benchmarks.timing import LatencyRow
from rtool.benchmarks.whole_flow.rank_figure import Figure, Gallery, rank_figure
from rtool.benchmarks.whole_flow.report import render_report
from rtool.benchmarks.whole_flow.summary import DemoSummary, Hop, Quality, summary_tables


def make_summary(**changes) -> DemoSummary:
    numbers = dict.fromkeys(LoadReport.__dataclass_fields__, 1.0)
    load = LoadReport(**{**numbers, "mode": "closed loop", "url": "127.0.0.1:1", "model": "m", "machine": {}})
    values = {
        "source": "<fused>.onnx",
        "hops": (Hop("a to b", 1e-7, 1e-7, 1.0, "relative error <= 1e-05", True),),
        "before": Quality(0.4, 0.5),
        "after": Quality(0.7, 0.8),
        "distilled": Quality(0.65, 0.75),
        "latency": (LatencyRow("fp32", 1, 2, 3, 1, 4, 1, 1, 1),),
        "serving": load,
        "seconds": {"convert": 1.0},
        "artefacts": {"bundle": "runs/demo/source.rtool", "gallery": "runs/demo/gallery/person_selection.html"},
        "machine": {"cores": 2, "libraries": {"torch": "2.13.0"}},
        "required_gain": 0.15,
    }
    return DemoSummary(**{**values, **changes})


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_is_self_contained_and_escapes_names():
    page = render_report(make_summary(), [Figure("QUJD", "before & after")], title="Demo", command="rtool demo")
    links = Links()
    links.feed(page)
    assert [link for link in links.found if not link.startswith("data:")] == ["gallery/person_selection.html"]
    assert "&lt;fused&gt;.onnx" in page
    assert "before &amp; after" in page
    for figure in ("1.00e-07", "40.0 &rarr; 70.0", "65.0&thinsp;%", "torch 2.13.0", "rtool demo"):
        assert figure in page


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"after": Quality(0.54, 0.9)}, False),  # 14 points won, 15 required
        ({"hops": (Hop("a", 1, 1, 0, "identical", False),)}, False),
    ],
)
def test_a_missed_hop_or_gain_fails_the_demo_everywhere(changes, passed):
    summary = make_summary(**changes)
    assert summary.passed is passed
    page = render_report(summary, [], title="Demo", command="rtool demo")
    assert ("FAILED" in page) is not passed


def test_the_tables_hold_every_hop_and_the_gain():
    hops, quality, speed = summary_tables(make_summary())
    assert hops.row_count == 1
    assert list(quality.columns[1].cells)[-2:] == ["+30.0 points", "65.0%"]
    assert speed.row_count == 2


def test_rank_figure_frames_matches_green_others_red_and_hides_the_same_camera():
    pixels = np.zeros((4, 8, 6, 3), dtype=np.uint8)
    images = Gallery(pixels, identities=np.array([0, 0, 0, 1]), cameras=np.array([0, 0, 1, 1]))
    embeddings = np.array([[1, 0], [1, 0], [0.5, 1], [1, 0.1]], dtype=np.float32)
    figure = rank_figure(images, embeddings, [0], shown=2, caption="c")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(figure.png))))
    cell = 6 + 8
    first, second = sheet[0, cell + 4 + 1], sheet[0, 2 * cell + 4 + 1]
    assert first.tolist() == [207, 34, 46]  # the other person under camera 1 is nearest
    assert second.tolist() == [26, 127, 55]  # image 1, of camera 0, is not shown
